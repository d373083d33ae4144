// fstat(2), in a file of its own: the kernel's struct stat, of this architecture, has the same name as the C library's,
// which may be another. Not by its symbol, which would bind us to glibc 2.33.
#include <asm/stat.h>
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys.h"

namespace sys {

int fstat(int fd, File* file) {
#if defined(SYS_fstat64)  // 32 bits
  struct stat64 found;
  auto error = ::syscall(SYS_fstat64, fd, &found);
#elif defined(SYS_fstat)
  struct stat found;
  auto error = ::syscall(SYS_fstat, fd, &found);
#else  // as on riscv32, where the kernel has statx(2) alone
  return -ENOSYS;
#endif
#if defined(SYS_fstat64) || defined(SYS_fstat)
  if (error != 0) return -errno;
  *file = {found.st_ino, found.st_mode, found.st_dev};
  return 0;
#endif
}

}  // namespace sys
