#include "files.h"

#include <errno.h>

namespace files {

int identify(int fd, sys::File* file) {
  const int refused = sys::statx(fd, file);
  if (refused == 0 || refused == -EBADF) return refused;
  const int error = sys::fstat(fd, file);
  return error == 0 || error == -EBADF ? error : refused;
}

}  // namespace files
