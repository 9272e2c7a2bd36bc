/* Preloaded into a program: shifts the clock of the day by the seconds that the file $CLOCK_SHIFT holds at that moment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile int64_t *shift;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (mapped == MAP_FAILED || !real)
        abort();
    shift = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real)
        begin();
    int failed = real(clock, at);
    if (!failed && clock == CLOCK_REALTIME)
        at->tv_sec += *shift;
    return failed;
}
