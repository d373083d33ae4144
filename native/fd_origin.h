#pragma once

// Where an fd comes from, which says how long close(2) of it can take.
enum class Origin {
  kOwn,        // opened here: it closes at once
  kInherited,  // from a process or thread that we trust: it may have SO_LINGER
  kUntrusted,  // or of a kind with which a stranger sends fds: as long as the stranger likes
};
