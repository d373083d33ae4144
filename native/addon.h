// What the addon keeps for one environment: one main thread or one worker. There is no other state.
#pragma once

#include <napi.h>
#include <uv.h>

#include <cstdint>
#include <unordered_map>
#include <unordered_set>

#include "bound_paths.h"
#include "closer.h"
#include "fd_bit_set.h"
#include "fd_origin.h"
#include "listener.h"
#include "readiness.h"

// The JavaScript object of a listener, as far as the addon needs it. Listener::data points to it.
class ListenerObject {
 public:
  // The async context in which the listener was created. Its event handlers run in it, as with net.Server.
  virtual napi_async_context context() const = 0;

  virtual napi_value value() const = 0;

  // While it is in use, the garbage collector must not collect it.
  virtual void hold(bool in_use) = 0;

  // The listener is closed, or is about to be.
  virtual void forget() = 0;

 protected:
  ~ListenerObject() = default;
};

class Addon final : public Listener::Host, public Readiness::Host {
 public:
  Addon(Napi::Env env, Napi::Object exports);

  static Addon* of(Napi::Env env) { return env.GetInstanceData<Addon>(); }

  uv_loop_t* loop() const { return loop_; }

  // Fds that JavaScript holds by number, without a libuv handle. A listener's fd is the listener's alone.
  FdBitSet& owned() { return owned_; }
  bool owns(int fd) const { return owned_.has(fd); }

  // Owns `fd`, unless there is no memory to remember it.
  bool own(int fd, Origin origin) override;

  // Of an owned fd.
  Origin origin_of(int fd) const;

  // Gives an owned fd to the caller, and remembers it if it is a stranger's. False when the environment does not own
  // it.
  bool detach(int fd);

  // Whether the fd, which may be given back, is one of a stranger that was given away. Its number alone does not say
  // so: it may be another file's by now.
  bool is_detached_untrusted(int fd) const;

  // Closes an owned fd, on another thread if that can take long. -EBADF when the environment does not own it.
  int close_owned(int fd, Closer::How how);

  // Closes an fd of a stranger that is not owned.
  void discard(int fd) { closer_.close(fd); }

  // Notes what an owned fd is before somebody else takes it. The environment may end between their taking it and
  // release(); then they close it, and when it is our turn its number may be another thread's.
  int prepare_transfer(int fd);

  // False when the environment does not own it.
  bool release(int fd) {
    if (fd == in_transfer_.fd) in_transfer_.fd = -1;
    readiness_.unwatch(fd);
    return owned_.remove(fd);
  }

  // The paths of unix sockets among the owned fds and the listeners' fds.
  BoundPaths& paths() { return paths_; }

  // Closes its fd, and removes the path of that. As BoundPaths::close.
  int close_listener(Listener* listener, int* unremoved = nullptr);

  // Takes `fd` from the owned ones when it returns 0.
  int open_listener(int fd, Listener::Options options, ListenerObject* object, Listener** result);
  bool is_listening(int fd) const;

  Listener::Completion* completions() override;
  bool close(int fd, bool reset) override;
  void deliver(Listener* listener, size_t count, Listener::Capacity capacity) override;
  void hold(Listener* listener, bool outstanding) override;
  void closed(Listener* listener) override;

  Readiness& readiness() { return readiness_; }
  void ready(const Readiness::Event* events, size_t count) override;
  void readiness_closed() override;

 private:
  void close_by_origin(int fd, Closer::How how);
  void set_callback(const Napi::CallbackInfo& info, Napi::FunctionReference* callback);
  void enter(napi_async_context context, napi_value receiver, const Napi::FunctionReference& callback, size_t count,
             const napi_value* arguments);
  void end();
  void end_if_all_closed();

  Napi::Env env_;
  uv_loop_t* loop_ = nullptr;
  FdBitSet owned_;
  FdBitSet inherited_;
  FdBitSet untrusted_;
  std::unordered_map<int, uint64_t> detached_untrusted_;  // by number, with their inodes
  BoundPaths paths_;
  Closer closer_;
  struct {
    int fd = -1;
    uint64_t inode = 0;
  } in_transfer_;
  std::unordered_set<Listener*> listeners_;  // those being closed included
  Napi::Reference<Napi::ArrayBuffer> completions_;
  Napi::FunctionReference deliver_;
  Napi::FunctionReference on_ready_;
  Readiness readiness_{this};
  bool readiness_open_ = false;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  bool ending_ = false;
};
