// Waits until an fd can be read or written, and does neither, for fds that no libuv handle has.
//
// They are in an epoll instance of our own, edge-triggered, and libuv polls that one. A client whose bytes come one by
// one then wakes us once for each, however long what came before stays unread; libuv's own polls are level-triggered
// and would never rest. And an fd that libuv has never seen can go anywhere afterwards.
#pragma once

#include <uv.h>

#include <cstddef>

#include "fd_bit_set.h"

class Readiness {
 public:
  struct Event {
    int fd;
    // An end, an error or urgent data, or a number that another fd has meanwhile: only poll(2) of the fd tells.
    bool exceptional;
    bool writable;  // only if that was asked for
  };

  class Host {
   public:
    // From the event loop only.
    virtual void ready(const Event* events, size_t count) = 0;
    virtual void readiness_closed() = 0;

   protected:
    ~Host() = default;
  };

  explicit Readiness(Host* host) : host_(host) {}

  // Tells of `fd` once for what is there, and then each time when something more has come, and if asked when there is
  // room to write again. Borrows the fd. 0 or a negative errno. What is watched keeps the loop alive.
  int watch(uv_loop_t* loop, int fd, bool writable);

  // Before the fd is closed or given away: epoll forgets it then, and we would not. -ENOENT when it was not watched.
  int unwatch(int fd);

  // Watches nothing any more. True: readiness_closed follows.
  bool close();

 private:
  // The most fds that one entry into JavaScript tells of.
  static constexpr int kMaxBatch = 64;
  // The most entries in one turn of the loop: 1024 fds, as many as libuv takes from one epoll_wait(2). The rest waits
  // for the next turn, so that timers and other I/O keep theirs.
  static constexpr int kMaxBatches = 16;

  int open(uv_loop_t* loop);
  int start();
  void on_ready();

  Host* host_;
  uv_poll_t poll_;
  int epoll_ = -1;
  FdBitSet watched_;
  size_t count_ = 0;
  bool closing_ = false;
};
