// The paths that this environment has bound unix sockets to. Each is removed when its socket is closed here, unless
// another process or thread still has the socket.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>

class BoundPaths {
 public:
  // To be called when `fd`, a unix socket of this environment, has been bound. `path` must be absolute. 0 or a negative
  // errno. For want of memory the path is removed at once.
  int add(int fd, const std::string& path) noexcept;

  // The path stays: `fd` gets another owner.
  void forget(int fd) { entries_.erase(fd); }

  // Another process was given the socket. It counts only where the kernel does not say which sockets there are.
  void share(int fd);

  // Closes `fd` by `close_fd`, then removes its path if it has one. `*unremoved` becomes the negative errno of what
  // kept the path from being removed, or 0.
  int close(int fd, const std::function<int(int)>& close_fd, int* unremoved = nullptr);

 private:
  struct Entry {
    std::string path;
    uint64_t device, inode;  // of the path
    uint64_t socket;         // the inode of the socket, in the kernel's file system of sockets
    bool shared;
  };

  static bool is_path_of(const Entry& entry, int held);
  static bool is_used(const Entry& entry, bool answers);
  static int remove(const Entry& entry);

  std::unordered_map<int, Entry> entries_;
};
