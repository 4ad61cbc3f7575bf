/* fault.h - named points where tests make a program die or wait.
 *
 * The environment names one point: LONGHAUL_FAULT=NAME[:N][:kill|stop|sleepMS]. The N-th time (default 1)
 * the program passes lh_fault("NAME") it kills itself with SIGKILL (default), stops itself with SIGSTOP, or
 * sleeps. Without the variable a point costs one load and a branch. It is always compiled in, so that what
 * is tested is what is shipped.
 */
#pragma once

void lh_fault(const char *point);
