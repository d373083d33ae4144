#include "files.h"

#include <errno.h>

namespace files {

int identify(int fd, sys::File* file) {
  const int statx_error = sys::statx(fd, file);
  if (statx_error == 0 || statx_error == -EBADF) return statx_error;
  const int error = sys::fstat(fd, file);
  return error == 0 || error == -EBADF ? error : statx_error;
}

int identify(const char* path, sys::File* file) {
  const int statx_error = sys::statx(path, file);
  if (statx_error == 0 || statx_error == -ENOENT || statx_error == -ENOTDIR) return statx_error;
  const int fd = sys::open_path(path);
  if (fd < 0) return fd == -ENOENT || fd == -ENOTDIR ? fd : statx_error;
  const int error = sys::fstat(fd, file);
  sys::close(fd);
  return error == 0 ? 0 : statx_error;
}

}  // namespace files
