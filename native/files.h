// Identifies the file behind an fd or a path.
#pragma once

#include "sys.h"

namespace files {

// Calls statx(2), or fstat(2) if statx(2) fails because of a seccomp filter or an old kernel. fstat(2) waits for the
// server of a network or FUSE file system. Returns 0 or a negative errno. Only -EBADF means that the fd is not open.
int identify(int fd, sys::File* file);

// The same for a path, without following a symbolic link. -ENOENT and -ENOTDIR mean that no such file exists.
int identify(const char* path, sys::File* file);

}  // namespace files
