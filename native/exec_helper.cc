#include "exec_helper.h"

#include <errno.h>
#include <stdio.h>

#include "sys.h"

// binding.gyp builds async_accept_exec before this file and passes the directory of that program to the assembler.
asm(R"(
  .section .rodata.exec_helper, "a"
  .hidden exec_helper_start
  .hidden exec_helper_end
  .globl exec_helper_start
  .globl exec_helper_end
exec_helper_start:
  .incbin "async_accept_exec"
exec_helper_end:
  .byte 0
  .previous
)");

extern "C" const uint8_t exec_helper_start[] __attribute__((visibility("hidden")));
extern "C" const uint8_t exec_helper_end[] __attribute__((visibility("hidden")));

namespace exec_helper {

const uint8_t* image() { return exec_helper_start; }

size_t size() { return static_cast<size_t>(exec_helper_end - exec_helper_start); }

int open(int lowest) {
  int file = sys::memfd_create("async-accept-exec");
  if (file < 0) return file;
  const bool complete = sys::write(file, image(), size()) == static_cast<ssize_t>(size());
  const int fd = complete ? sys::dup_cloexec(file, lowest) : -EIO;
  sys::close(file);
  if (fd < 0) return fd;
  char path[32];
  static_cast<void>(snprintf(path, sizeof path, "/proc/self/fd/%d", fd));
  const int error = sys::executable(path);
  if (error == 0) return fd;
  sys::close(fd);
  return error;
}

}  // namespace exec_helper
