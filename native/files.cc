#include "files.h"

#include <errno.h>

namespace files {

int identify(int fd, sys::File* file) {
  const int refused = sys::statx(fd, file);
  if (refused == 0 || refused == -EBADF) return refused;
  const int error = sys::fstat(fd, file);
  return error == 0 || error == -EBADF ? error : refused;
}

int identify(const char* path, sys::File* file) {
  const int refused = sys::statx(path, file);
  if (refused == 0 || refused == -ENOENT || refused == -ENOTDIR) return refused;
  const int fd = sys::open_path(path);
  if (fd < 0) return fd == -ENOENT || fd == -ENOTDIR ? fd : refused;
  const int error = sys::fstat(fd, file);
  sys::close(fd);
  return error == 0 ? 0 : refused;
}

}  // namespace files
