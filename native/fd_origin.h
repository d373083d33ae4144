#pragma once

// The origin of an fd, which determines how long close(2) can block.
enum class Origin {
  kOwn,        // opened by this environment: close(2) does not block
  kInherited,  // from a trusted process or thread: SO_LINGER may be set
  kUntrusted,  // from an untrusted process, or able to receive fds from one: close(2) can block without limit
};
