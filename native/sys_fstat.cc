// fstat(2) has its own file, because it needs the struct stat of the kernel for this architecture. The C library has a
// struct of the same name that can differ. fstat(2) is a raw system call here, because the symbol of the C library
// would require glibc 2.33.
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
#else  // for example riscv32, where the kernel has only statx(2)
  return -ENOSYS;
#endif
#if defined(SYS_fstat64) || defined(SYS_fstat)
  if (error != 0) return -errno;
  *file = {found.st_ino, found.st_mode, found.st_dev};
  return 0;
#endif
}

}  // namespace sys
