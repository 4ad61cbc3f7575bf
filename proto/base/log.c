/* log.c - the log sink; see log.h. Each line is one write(2), so lines of several processes never
 * mix. */
#include "proto/base/log.h"
#include "proto/base/clock.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_once_t sink_once = PTHREAD_ONCE_INIT;
static struct {
    bool journal;
    enum lh_log_level level;
    char context[96];
} sink;

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const char *const journal_prefix[] = {"<3>", "<4>", "<6>", "<7>"};

static void sink_init(void)
{
    const char *wanted = getenv("LONGHAUL_LOG");

    sink.journal = getenv("JOURNAL_STREAM") != NULL;
    sink.level = LH_LOG_INFO;
    for (unsigned i = 0; wanted && i < LH_ARRAY_LEN(level_names); i++)
        if (strcmp(wanted, level_names[i]) == 0)
            sink.level = (enum lh_log_level)i;
}

void lh_log_set_level(enum lh_log_level level)
{
    (void)pthread_once(&sink_once, sink_init);
    sink.level = level;
}

void lh_log_set_context(const char *context)
{
    (void)snprintf(sink.context, sizeof(sink.context), "%s", context);
}

void lh_log(enum lh_log_level level, const char *event, const char *fmt, ...)
{
    char line[2048], now[LH_RFC3339_MAX];
    size_t used;
    va_list ap;

    (void)pthread_once(&sink_once, sink_init);
    if (level > sink.level)
        return;
    if (sink.journal)
        used = (size_t)snprintf(line, sizeof(line), "%s%s ", journal_prefix[level], event);
    else
        used = (size_t)snprintf(line, sizeof(line), "%s %-5s %s ", lh_rfc3339(lh_now_ms(), now),
                                level_names[level], event);
    if (sink.context[0] && used < sizeof(line))
        used += (size_t)snprintf(line + used, sizeof(line) - used, "%s ", sink.context);
    if (used < sizeof(line)) {
        va_start(ap, fmt);
        used += (size_t)vsnprintf(line + used, sizeof(line) - used, fmt, ap);
        va_end(ap);
    }
    used = LH_MIN(used, sizeof(line) - 1);
    for (size_t i = 0; i < used; i++) /* text of users must forge no line and drive no terminal */
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0)
        return; /* nobody is left to tell */
}
