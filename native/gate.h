/* A gate: one thread waits before it, another opens it, once. Waiting and opening somebody else's gate is one call
 * without the interpreter lock, so that the thread let go finds the lock free. Linux (futex). */
#ifndef DQ_GATE_H
#define DQ_GATE_H

#include <stdint.h>

/* 1 where gates exist, else 0: Python then uses locks. */
int dq_have_gates(void);

void dq_gate_open(int32_t *gate);

/* Open `other` (may be NULL), then wait for `own`: 1 opened, 0 not within `timeout_us`, -1 interrupted by a signal. */
int dq_gate_wait(int32_t *own, int32_t *other, int64_t timeout_us);

#endif
