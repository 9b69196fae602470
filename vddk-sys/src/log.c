/*
 * The library's log callbacks take a va_list, which Rust cannot read: they are formatted here and handed on as text.
 */
#include <stdarg.h>
#include <stdio.h>

/* Longer lines are cut. */
#define LINE_BYTES 2048

/* In Rust. The text is valid during the call only. */
void ferry_vddk_logged(int level, const char *text);

static void hand_on(int level, const char *format, va_list arguments)
{
    char line[LINE_BYTES];

    if (vsnprintf(line, sizeof line, format, arguments) >= 0)
        ferry_vddk_logged(level, line);
}

void ferry_vddk_info(const char *format, va_list arguments) { hand_on(0, format, arguments); }
void ferry_vddk_warning(const char *format, va_list arguments) { hand_on(1, format, arguments); }
void ferry_vddk_panic(const char *format, va_list arguments) { hand_on(2, format, arguments); }
