#include "gate.h"

#include <stddef.h>

#ifdef __linux__

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CLOSED 0
#define OPEN 1

int dq_have_gates(void) {
    return 1;
}

void dq_gate_open(int32_t *gate) {
    __atomic_store_n(gate, OPEN, __ATOMIC_RELEASE);
    syscall(SYS_futex, gate, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int dq_gate_wait(int32_t *own, int32_t *other, int64_t timeout_us) {
    if (other != NULL) {
        dq_gate_open(other);
    }
    int64_t deadline_us = now_us() + timeout_us;
    while (__atomic_load_n(own, __ATOMIC_ACQUIRE) == CLOSED) {
        int64_t left_us = deadline_us - now_us();
        if (left_us <= 0) {
            return 0;
        }
        struct timespec left = {.tv_sec = (time_t)(left_us / 1000000), .tv_nsec = (long)(left_us % 1000000) * 1000};
        if (syscall(SYS_futex, own, FUTEX_WAIT_PRIVATE, CLOSED, &left, NULL, 0) != 0 && errno == EINTR) {
            return -1;
        }
    }
    return 1;
}

#else

int dq_have_gates(void) {
    return 0;
}

void dq_gate_open(int32_t *gate) {
    (void)gate;
}

int dq_gate_wait(int32_t *own, int32_t *other, int64_t timeout_us) {
    (void)own;
    (void)other;
    (void)timeout_us;
    return 0;
}

#endif
