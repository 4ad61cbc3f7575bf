/* log.h - one line per event on standard error: time, level, dotted name, key=value pairs.
 *
 * Only the edges log: main, app, http, kinds. Library code returns errors instead. Values with spaces are
 * written with quotes by the caller ("error=\"%s\""). Under systemd (JOURNAL_STREAM set) the time is left
 * out and the level becomes the journal's <N> prefix.
 */
#pragma once
#include "proto/base/attr.h"

enum lh_log_level { LH_LOG_ERROR, LH_LOG_WARN, LH_LOG_INFO, LH_LOG_DEBUG };

/* Lines above this level are dropped. Default INFO, or the environment's LONGHAUL_LOG (error, warn, info, debug). */
void lh_log_set_level(enum lh_log_level level);

/* Text put after the level on each line, such as "job=42 rank=0"; copied, at most 95 bytes. Level and context are set
 * before threads start. */
void lh_log_set_context(const char *context);

void lh_log(enum lh_log_level level, const char *event, const char *fmt, ...) LH_PRINTF(3, 4);

#define lh_error(event, ...) lh_log(LH_LOG_ERROR, event, __VA_ARGS__)
#define lh_warn(event, ...) lh_log(LH_LOG_WARN, event, __VA_ARGS__)
#define lh_info(event, ...) lh_log(LH_LOG_INFO, event, __VA_ARGS__)
#define lh_debug(event, ...) lh_log(LH_LOG_DEBUG, event, __VA_ARGS__)
