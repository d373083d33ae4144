// The state of the addon in one environment: the main thread or a worker thread. The addon has no other state.
#pragma once

#include <napi.h>
#include <uv.h>

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <unordered_set>

#include "bound_paths.h"
#include "closer.h"
#include "fd_bit_set.h"
#include "fd_origin.h"
#include "listener.h"
#include "readiness.h"

// The JavaScript object of a listener, as seen by the addon. Listener::data points to it.
class ListenerObject {
 public:
  // The async context in which the listener was created. The event handlers of the listener run in this context, as
  // with net.Server.
  virtual napi_async_context context() const = 0;

  virtual napi_value value() const = 0;

  // Keeps the object from being garbage collected while the listener is in use.
  virtual void hold(bool in_use) = 0;

  // Drops the pointer to the listener, which is closed or about to be closed.
  virtual void forget() = 0;

 protected:
  ~ListenerObject() = default;
};

class Addon final : public Listener::Host, public Readiness::Host {
 public:
  Addon(Napi::Env env, Napi::Object exports);

  static Addon* of(Napi::Env env) { return env.GetInstanceData<Addon>(); }

  uv_loop_t* loop() const { return loop_; }

  // The fds that JavaScript holds by number, without a libuv handle. The set does not contain the fds of listeners,
  // because each listener owns its fd.
  FdBitSet& owned() { return owned_; }
  bool owns(int fd) const { return owned_.has(fd); }

  // Takes ownership of `fd`. Returns false if memory runs out; the caller then still owns the fd.
  bool own(int fd, Origin origin) override;

  // Returns the origin of an owned fd.
  Origin origin_of(int fd) const;

  // Transfers an owned fd to the caller. Remembers an untrusted fd for is_detached_untrusted(). Returns false if the
  // environment does not own the fd.
  bool detach(int fd);

  // Returns whether detach() has transferred `fd` as an untrusted fd. JavaScript may hand such an fd back. Compares the
  // inode too, because the number may meanwhile refer to another file.
  bool is_detached_untrusted(int fd) const;

  // Closes an owned fd. If close(2) may block, another thread closes the fd, and this waits for at most
  // Closer::kMaxWaitMs. Returns -EBADF if the environment does not own the fd.
  int close_owned(int fd, Closer::How how);

  // Closes an fd that is not owned, on another thread, because close(2) of an untrusted fd may block.
  void discard(int fd) { closer_.close(fd); }

  // Records the inode of an owned fd before a libuv handle takes ownership of the fd. The environment may end after
  // that, but before release() is called. The libuv handle then closes the fd, and another thread may open a file with
  // the same number. end() compares the inodes, so it does not close that file.
  int prepare_transfer(int fd);

  // Gives up ownership of an fd without closing it. Returns false if the environment does not own it.
  bool release(int fd) {
    if (fd == in_transfer_.fd) in_transfer_.fd = -1;
    readiness_.unwatch(fd);
    return owned_.remove(fd);
  }

  // The paths of the unix sockets among the owned fds and the fds of listeners.
  BoundPaths& paths() { return paths_; }

  // Closes the fd of a listener and removes its path. `unremoved` is set as by BoundPaths::close(). Returns 0, or -1 if
  // the listener is already closed.
  int close_listener(Listener* listener, int* unremoved = nullptr);

  // Creates a listener that takes ownership of the owned fd `fd`, and returns 0. On failure, returns a negative errno
  // and the environment still owns the fd. Sets Listener::id.
  int open_listener(int fd, Listener::Options options, ListenerObject* object, Listener** result);
  bool is_listening(int fd) const { return listening_.has(fd); }

  // Lets JavaScript count requests of the listener that is delivering, until collect().
  void grant();

  // Closes a listener and transfers its fd to the caller. Returns -1 if the listener is already closed.
  int detach_listener(Listener* listener);

  Listener::Completion* completions() override;
  void collect() override;
  bool close(int fd, bool reset) override;
  void deliver(Listener* listener, size_t count, Listener::Capacity capacity) override;
  void hold(Listener* listener, bool in_use) override;
  void closed(Listener* listener) override;

  Readiness& readiness() { return readiness_; }
  void ready(const Readiness::Event* events, size_t count) override;
  void readiness_closed() override;

 private:
  struct Shared;
  Shared* shared();
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
  std::unordered_map<int, uint64_t> detached_untrusted_;  // maps an fd number to an inode
  BoundPaths paths_;
  Closer closer_;
  struct {
    int fd = -1;
    uint64_t inode = 0;
  } in_transfer_;
  FdBitSet listening_;                       // the fds of the open listeners
  std::unordered_set<Listener*> listeners_;  // including those that are being closed
  Napi::Reference<Napi::ArrayBuffer> shared_;
  Listener* delivering_ = nullptr;  // the listener whose results JavaScript is handling, or null
  size_t granted_ = 0;              // the number of requests that JavaScript may count for it
  int64_t last_id_ = 0;
  Napi::FunctionReference deliver_;
  Napi::FunctionReference on_ready_;
  Readiness readiness_{this};
  bool readiness_open_ = false;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  bool ending_ = false;
};
