/* Rust can neither make a va_list nor define a function with one. */
#include <stdarg.h>

typedef void (*log_function)(const char *format, va_list arguments);

void vddk_stub_say(log_function log, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    log(format, arguments);
    va_end(arguments);
}
