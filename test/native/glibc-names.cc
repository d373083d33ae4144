// What builds of libstdc++ and libgcc for glibc call, and musl lacks or does in another way. With it a Node that was
// built for musl runs with the libraries of a machine that has glibc. For scripts/musl-node.mjs.
#include <ctype.h>
#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED char __libc_single_threaded = 0;

EXPORTED uint32_t arc4random() {
  uint32_t value = 0;
  if (getrandom(&value, sizeof value, 0) != sizeof value) abort();
  return value;
}

EXPORTED size_t __strftime_l(char* text, size_t room, const char* format, const struct tm* time, locale_t locale) {
  return strftime_l(text, room, format, time, locale);
}

// libstdc++ reads the tables of its std::ctype<char> from the locale, as glibc lays it out. musl reads the first
// pointers alone; null pointers are its "C" locale, and there is no other here.
namespace {

struct Locale {
  const void* categories[13];
  const uint16_t* classes;
  const int32_t* lower;
  const int32_t* upper;
  const char* names[13];
};

// The tables have an index for each char and unsigned char.
constexpr int kFirst = -128;
constexpr int kLast = 255;
uint16_t classes[kLast - kFirst + 1];
int32_t lower[kLast - kFirst + 1];
int32_t upper[kLast - kFirst + 1];

Locale c_locale = {{}, classes - kFirst, lower - kFirst, upper - kFirst, {}};

void fill_tables() {
  int (*const is[])(int) = {isupper, islower, isalpha, isdigit, isxdigit, isspace,
                            isprint, isgraph, isblank, iscntrl, ispunct,  isalnum};
  for (int byte = kFirst; byte <= kLast; byte++) {
    lower[byte - kFirst] = tolower(byte);
    upper[byte - kFirst] = toupper(byte);
    for (int bit = 0; byte >= 0 && bit < 12; bit++) {
      // Bit 0 is the first of the second byte.
      if (is[bit](byte)) classes[byte - kFirst] |= static_cast<uint16_t>(bit < 8 ? 0x100 << bit : 1 << (bit - 8));
    }
  }
}

}  // namespace

EXPORTED void* __newlocale(int, const char*, void*) {
  if (upper['a' - kFirst] == 0) fill_tables();
  return &c_locale;
}

EXPORTED void* __duplocale(void* locale) { return locale; }

EXPORTED void __freelocale(void*) {}

// Registers the destructor of a thread_local variable. It never runs, so what the variable owns stays until the process
// ends.
EXPORTED int __cxa_thread_atexit_impl(void (*)(void*), void*, void*) { return 0; }

// Finds unwind tables for libgcc. It finds none: Node throws no C++ exceptions, and the addon has its own unwinder.
EXPORTED int _dl_find_object(void*, void*) { return -1; }

// For __builtin_cpu_supports(): the processor has no extension.
EXPORTED int __cpu_indicator_init() { return 0; }
EXPORTED unsigned __cpu_model[4] = {};

// std::string::_M_replace_cold, which the libstdc++ of GCC 13 added: puts `length` bytes in the place of `replaced`
// bytes, before `rest` others. The new bytes are part of the same string.
EXPORTED void replace_cold(void*, char* place, size_t replaced, const char* bytes, size_t length, size_t rest) __asm__(
    "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE15_M_replace_coldEPcmPKcmm");

void replace_cold(void*, char* place, size_t replaced, const char* bytes, size_t length, size_t rest) {
  char* copy = static_cast<char*>(malloc(length + 1));
  if (copy == nullptr) abort();
  memcpy(copy, bytes, length);
  memmove(place + length, place + replaced, rest);
  memcpy(place, copy, length);
  free(copy);
}
