#include "bound_paths.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include <new>
#include <utility>

#include "files.h"
#include "sockaddr.h"
#include "sys.h"
#include "unix_diag.h"

namespace {

// Returns whether no socket is bound to the file any more, so no process has the socket. A datagram socket cannot
// connect to a listening socket: connect(2) fails with EPROTOTYPE, unnoticed by the listener, or with ECONNREFUSED if
// there is no socket. sock_diag(7) tells the same, but searches all unix sockets of the system.
bool is_unbound(int path_fd) {
  if (path_fd < 0) return false;
  sockaddrs::Sockaddr address;
  sockaddr_un& un = address.storage.un;
  un.sun_family = AF_UNIX;
  // This path leads to the file also if another process has replaced the path of the socket.
  static_cast<void>(snprintf(un.sun_path, sizeof un.sun_path, "/proc/self/fd/%d", path_fd));
  const int fd = sys::socket(AF_UNIX, SOCK_DGRAM);
  if (fd < 0) return false;
  const int error = sys::connect(fd, &address.storage.any, sizeof un);
  sys::close(fd);
  return error == -ECONNREFUSED;
}

}  // namespace

int BoundPaths::add(int fd, const std::string& path) noexcept {
  sys::File socket;
  sys::File file;
  int error = files::identify(fd, &socket);
  if (error == 0) error = files::identify(path.c_str(), &file);
  if (error == 0 && !S_ISSOCK(file.mode)) error = -ENOTSOCK;
  if (error != 0) return error;
  try {
    entries_[fd] = {path, file.device, file.inode, socket.inode, false};
  } catch (const std::bad_alloc&) {
    sys::unlink(path.c_str());
    return -ENOMEM;
  }
  return 0;
}

void BoundPaths::share(int fd) {
  auto found = entries_.find(fd);
  if (found != entries_.end()) found->second.shared = true;
}

int BoundPaths::close(int fd, const std::function<int(int)>& close_fd, int* unremoved) {
  int ignored;
  if (unremoved == nullptr) unremoved = &ignored;
  *unremoved = 0;
  auto found = entries_.find(fd);
  if (found == entries_.end()) return close_fd(fd);
  const Entry entry = std::move(found->second);
  entries_.erase(found);
  // While the socket is open, the kernel does not reuse the inode number of its path. After the close, the O_PATH fd
  // keeps that number in use. So remove() cannot mistake another process's socket for this one. At the fd limit,
  // open_path() fails, and remove() can only compare the device and the inode.
  const int path_fd = sys::open_path(entry.path.c_str());
  const bool ours = path_fd < 0 ? path_fd != -ENOENT && path_fd != -ENOTDIR : is_path_of(entry, path_fd);
  const bool was_found = ours && entry.shared && unix_diag::exists(entry.socket) == 0;
  const int result = close_fd(fd);
  if (ours && (is_unbound(path_fd) || !is_used(entry, was_found))) *unremoved = remove(entry);
  if (path_fd >= 0) sys::close(path_fd);
  return result;
}

bool BoundPaths::is_path_of(const Entry& entry, int path_fd) {
  sys::File file;
  return files::identify(path_fd, &file) == 0 && file.device == entry.device && file.inode == entry.inode;
}

// `was_found` tells whether sock_diag(7) found the shared socket before this process closed it. If it did not, a later
// -ENOENT does not prove that no process has the socket.
bool BoundPaths::is_used(const Entry& entry, bool was_found) {
  const int error = unix_diag::exists(entry.socket);
  if (error == 0) return true;
  return was_found && error == -ENOENT ? false : entry.shared;
}

int BoundPaths::remove(const Entry& entry) {
  sys::File now;
  int error = files::identify(entry.path.c_str(), &now);
  if (error == -ENOENT || error == -ENOTDIR) return 0;
  if (error != 0) return error;
  // Another process has replaced the file.
  if (now.device != entry.device || now.inode != entry.inode) return 0;
  error = sys::unlink(entry.path.c_str());
  return error == -ENOENT ? 0 : error;
}
