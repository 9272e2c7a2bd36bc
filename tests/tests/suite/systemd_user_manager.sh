#!/bin/bash
# Starts a systemd user manager with a private /run, /tmp, /dev/log and cgroup, in which the user 4242 runs the unit.
# Called by systemd.rs, as root: systemd_user_manager.sh BINDIR UNIT CONFIG KEY KNOWN_HOSTS
# Prints one line for each step that has passed; the first failed step ends the script with the logs on stderr.
set -euo pipefail

uid=4242
if [ "${1:-}" != --inner ]; then
    group=tunneld-test-$$
    for base in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        [ -e "$base/cgroup.procs" ] || continue
        mkdir "$base/$group"
        echo $BASHPID >"$base/$group/cgroup.procs"
        chown -R $uid:$uid "$base/$group"
    done
    # --kill-child: the manager and all its children end with the namespaces, and these with this script.
    code=0
    unshare --mount --pid --fork --kill-child --mount-proc --propagation private bash "$0" --inner "$@" || code=$?
    for base in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        [ -e "$base/$group" ] || continue
        echo $BASHPID >"$base/cgroup.procs"
        find "$base/$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    exit $code
fi
shift
bin=$1 unit=$2 config=$3 key=$4 known=$5

passed() { echo "passed: $*"; }
until_true() { # seconds, command...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "waited too long for: $*" >&2; return 1; }
        sleep 0.1
    done
}

mount -t tmpfs tmpfs /run
mkdir -p /run/lab /run/systemd/system /run/systemd/journal /run/log/journal
cp "$bin/tunneld" "$bin/tunnelctl" "$unit" "$config" "$key" "$known" /run/lab/
mount -t tmpfs tmpfs /tmp
home=/tmp/home runtime=/run/user/$uid
mkdir -p $home/.config/tunneld $home/.config/systemd/user $home/.cargo/bin $home/.ssh $runtime
cp /run/lab/tunneld /run/lab/tunnelctl $home/.cargo/bin/
cp "/run/lab/$(basename "$unit")" $home/.config/systemd/user/tunneld.service
sed -e "s|$key|$home/key|" -e "s|$known|$home/known_hosts|" "/run/lab/$(basename "$config")" >$home/.config/tunneld/t.toml
cp "/run/lab/$(basename "$key")" $home/key
cp "/run/lab/$(basename "$known")" $home/known_hosts
mkdir $home/.config/systemd/user/tunneld.service.d
# Shorter than in the unit, so that the test takes seconds.
printf '[Service]\nWatchdogSec=3\nRestartSec=100ms\n' >$home/.config/systemd/user/tunneld.service.d/test.conf
chmod 0600 $home/key
chmod 0700 $runtime
chown -R $uid:$uid $home $runtime
cat /etc/passwd >/run/lab/passwd
echo "lab:x:$uid:$uid::$home:/bin/sh" >>/run/lab/passwd
cat /etc/group >/run/lab/group
echo "lab:x:$uid:" >>/run/lab/group
mount --bind /run/lab/passwd /etc/passwd
mount --bind /run/lab/group /etc/group

# journald creates /dev/log if it does not exist: that must not happen in the /dev of the machine.
mkdir /run/lab/dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /run/lab/dev/
ln -s /proc/self/fd /run/lab/dev/fd
mount --bind /run/lab/dev /dev
SYSTEMD_LOG_TARGET=console /lib/systemd/systemd-journald >/run/lab/journald.out 2>&1 &
until_true 10 test -S /run/systemd/journal/socket

as_user=(setpriv --reuid $uid --regid $uid --clear-groups env -i "PATH=$home/.cargo/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    HOME=$home XDG_RUNTIME_DIR=$runtime DBUS_SESSION_BUS_ADDRESS=unix:path=$runtime/bus)
"${as_user[@]}" /lib/systemd/systemd --user >/run/lab/manager.out 2>&1 &
user() { "${as_user[@]}" "$@"; }
ctl() { user systemctl --user "$@"; }
show() { ctl show -P "$1" tunneld.service; }
failed() {
    echo "--- unit"; ctl status --no-pager -l tunneld.service || true
    echo "--- journal"; journalctl --no-pager -o short-precise | tail -60 || true
    echo "--- manager"; tail -20 /run/lab/manager.out
}
trap 'failed >&2' ERR
until_true 15 test -S $runtime/systemd/private

errors=$(user systemd-analyze --user verify --recursive-errors=yes $home/.config/systemd/user/tunneld.service 2>&1) || { echo "$errors" >&2; false; }
[ -z "$errors" ] || { echo "$errors" >&2; false; }
passed verify

ctl daemon-reload
ctl start tunneld.service
[ "$(show ActiveState)" = active ] && [ "$(show Type)" = notify ]
passed started

is_up() { user tunnelctl status t; }
until_true 20 is_up
passed up
has_status_text() { [ -n "$(show StatusText)" ]; }
until_true 10 has_status_text
passed "status text: $(show StatusText)"

folder=$runtime/tunneld
[ "$(stat -c %a $folder)" = 700 ] && [ "$(stat -c %a $folder/control.sock)" = 600 ]
passed private

user tunnelctl reload
ctl reload tunneld.service
[ "$(show ActiveState)" = active ]
passed reloaded

in_journal() { journalctl -o json TUNNEL=t | grep -q '"TUNNEL":"t"'; }
until_true 10 in_journal
passed journal fields

restarted() { [ "$(show NRestarts)" -ge "$1" ] && [ "$(show ActiveState)" = active ]; }
kill -KILL "$(show MainPID)"
until_true 15 restarted 1
until_true 20 is_up
passed restarted after a kill

# A stopped daemon sends no watchdog message.
kill -STOP "$(show MainPID)"
until_true 25 restarted 2
until_true 20 is_up
passed restarted by the watchdog

began=$SECONDS
ctl stop tunneld.service
[ $((SECONDS - began)) -le 7 ]
[ "$(show Result)" = success ] && [ ! -e $folder/control.sock ]
passed stopped
