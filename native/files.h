// Which file an fd, or a path, is.
#pragma once

#include "sys.h"

namespace files {

// By statx(2); by fstat(2) where that is refused, by a container's seccomp filter or a kernel without it. The second
// one waits for the server of a network or FUSE file system. 0 or a negative errno, and only -EBADF means "not open".
int identify(int fd, sys::File* file);

// The same for a path; a symbolic link is not followed. -ENOENT and -ENOTDIR mean that there is none.
int identify(const char* path, sys::File* file);

}  // namespace files
