/* Clocks that jump and drift. Deadlines that callers computed from a shifted clock are translated back; relative
 * waits (epoll, poll, select, nanosleep) keep the kernel's pace. */
#include "faults.h"

#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ll

static int (*next_gettime)(clockid_t, struct timespec *); /* the vDSO's: no system call */
static int (*next_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*next_cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*next_sem_clockwait)(sem_t *, clockid_t, const struct timespec *);
static int (*next_sem_timedwait)(sem_t *, const struct timespec *);

/* `version`: the first one of these symbols has another structure behind it on old architectures. */
static void *next(const char *name, const char *version) {
    void *found = version ? dlvsym(RTLD_NEXT, name, version) : NULL;
    return found ? found : dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void find_next(void) {
    *(void **)&next_cond_timedwait = next("pthread_cond_timedwait", "GLIBC_2.3.2");
    *(void **)&next_cond_clockwait = next("pthread_cond_clockwait", NULL);
    *(void **)&next_sem_clockwait = next("sem_clockwait", NULL);
    *(void **)&next_sem_timedwait = next("sem_timedwait", NULL);
    *(void **)&next_gettime = next("clock_gettime", NULL);
}

static int kernel_time(clockid_t clock, struct timespec *time) {
    return next_gettime ? next_gettime(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
}

static int64_t to_ns(const struct timespec *time) { return time->tv_sec * SECOND_NS + time->tv_nsec; }

static struct timespec from_ns(int64_t ns) {
    ns = ns < 0 ? 0 : ns;
    return (struct timespec){.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS};
}

static bool is_warped(void) { return control && __atomic_load_n(&control->clock_is_warped, __ATOMIC_ACQUIRE); }

static struct clock_segment segment_at(int64_t mono_ns) {
    struct clock_segment found;
    /* Bounded: a suite that was killed while it wrote must not hang the node. */
    for (int attempt = 0; attempt < 10000; attempt++) {
        uint64_t sequence = __atomic_load_n(&control->clock_sequence, __ATOMIC_ACQUIRE);
        found = mono_ns < control->clock_switch_ns ? control->before : control->after;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(sequence & 1) && sequence == __atomic_load_n(&control->clock_sequence, __ATOMIC_RELAXED)) {
            break;
        }
    }
    return found;
}

static int64_t shift(bool is_real, int64_t mono_ns, int64_t *ppb) {
    struct clock_segment at = segment_at(mono_ns);
    *ppb = is_real ? at.real_ppb : at.mono_ppb;
    __int128 drift = (__int128)(mono_ns - at.anchor_ns) * *ppb;
    /* Floor, not towards zero: a clock that only drifts never goes back. */
    int64_t whole = (int64_t)(drift / SECOND_NS) - (drift % SECOND_NS < 0);
    return (is_real ? at.real_offset_ns : at.mono_offset_ns) + whole;
}

/* A new segment that was published late (the suite lost the processor) starts in the past: hold still until then. */
static int64_t never_back(int64_t ns) {
    static int64_t newest;
    int64_t seen = __atomic_load_n(&newest, __ATOMIC_ACQUIRE);
    while (seen < ns && !__atomic_compare_exchange_n(&newest, &seen, ns, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
    }
    return seen < ns ? ns : seen;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!is_warped()) {
        return kernel_time(clock, time);
    }
    bool is_real = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    bool is_mono = clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW ||
                   clock == CLOCK_BOOTTIME;
    if (clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE) {
        clock = is_real ? CLOCK_REALTIME : CLOCK_MONOTONIC; /* a coarse reading plus a fine shift could go back */
    }
    int code = kernel_time(clock, time);
    if (code || !(is_real || is_mono)) {
        return code;
    }
    struct timespec mono = *time;
    if (clock != CLOCK_MONOTONIC) {
        kernel_time(CLOCK_MONOTONIC, &mono);
    }
    int64_t ppb;
    int64_t shifted = to_ns(time) + shift(is_real, to_ns(&mono), &ppb);
    *time = from_ns(clock == CLOCK_MONOTONIC ? never_back(shifted) : shifted);
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    if (zone) {
        *(struct timezone *)zone = (struct timezone){0};
    }
    int code = clock_gettime(CLOCK_REALTIME, &now);
    if (!code) {
        *time = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
    }
    return code;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}

/* The kernel's deadline for one that was computed from our clock. */
static struct timespec deadline_of(bool is_real, const struct timespec *wanted) {
    struct timespec mono, own;
    kernel_time(CLOCK_MONOTONIC, &mono);
    kernel_time(is_real ? CLOCK_REALTIME : CLOCK_MONOTONIC, &own);
    int64_t ppb, shifted = to_ns(&own) + shift(is_real, to_ns(&mono), &ppb);
    __int128 left = (__int128)(to_ns(wanted) - shifted) * SECOND_NS / (SECOND_NS + ppb);
    return from_ns(to_ns(&own) + (int64_t)left);
}

/* A condition variable does not tell its clock; the deadline does: it lies near one of the two. */
static bool is_real_deadline(const struct timespec *wanted) {
    struct timespec real, mono;
    clock_gettime(CLOCK_REALTIME, &real);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    return llabs(to_ns(wanted) - to_ns(&real)) < llabs(to_ns(wanted) - to_ns(&mono));
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
    if (!is_warped()) {
        return next_cond_timedwait(cond, mutex, deadline);
    }
    struct timespec translated = deadline_of(is_real_deadline(deadline), deadline);
    return next_cond_timedwait(cond, mutex, &translated);
}

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict deadline) {
    if (!is_warped()) {
        return next_cond_clockwait(cond, mutex, clock, deadline);
    }
    struct timespec translated = deadline_of(clock == CLOCK_REALTIME, deadline);
    return next_cond_clockwait(cond, mutex, clock, &translated);
}

int sem_clockwait(sem_t *restrict sem, clockid_t clock, const struct timespec *restrict deadline) {
    if (!is_warped()) {
        return next_sem_clockwait(sem, clock, deadline);
    }
    struct timespec translated = deadline_of(clock == CLOCK_REALTIME, deadline);
    return next_sem_clockwait(sem, clock, &translated);
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict deadline) {
    if (!is_warped()) {
        return next_sem_timedwait(sem, deadline);
    }
    struct timespec translated = deadline_of(true, deadline);
    return next_sem_timedwait(sem, &translated);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
    struct timespec translated;
    if (is_warped() && (flags & TIMER_ABSTIME) && (clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC)) {
        translated = deadline_of(clock == CLOCK_REALTIME, wanted);
        wanted = &translated;
    }
    static int (*next_nanosleep)(clockid_t, int, const struct timespec *, struct timespec *);
    if (!next_nanosleep) {
        *(void **)&next_nanosleep = next("clock_nanosleep", "GLIBC_2.17");
    }
    return next_nanosleep(clock, flags, wanted, left);
}
