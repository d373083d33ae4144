// The paths to which this environment has bound unix sockets. Closing a socket here also removes its path, unless
// another process or thread still has the socket.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>

class BoundPaths {
 public:
  // Records the path of `fd`, a unix socket of this environment that has just been bound. `path` must be absolute.
  // Returns 0 or a negative errno. If memory runs out, removes the path at once.
  int add(int fd, const std::string& path) noexcept;

  // Keeps the path in the file system from now on, because `fd` gets another owner.
  void forget(int fd) { entries_.erase(fd); }

  // Records that another process has received the socket. close() uses this only if sock_diag(7) cannot tell whether
  // another process still has the socket.
  void share(int fd);

  // Closes `fd` with `close_fd`, then removes its path, if any. Returns the result of `close_fd`. Sets `*unremoved` to
  // the negative errno for which the path could not be removed, or to 0.
  int close(int fd, const std::function<int(int)>& close_fd, int* unremoved = nullptr);

 private:
  struct Entry {
    std::string path;
    uint64_t device, inode;  // of the file at `path`
    uint64_t socket;         // the inode of the open socket, in sockfs
    bool shared;
  };

  static bool is_path_of(const Entry& entry, int path_fd);
  static bool is_used(const Entry& entry, bool was_found);
  static int remove(const Entry& entry);

  std::unordered_map<int, Entry> entries_;
};
