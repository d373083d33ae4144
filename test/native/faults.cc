// Fault injection for tests, built only with the gyp variable `faults`. The linker (--wrap in binding.gyp) redirects
// the addon's calls to the functions in this file. The addon's own sources are therefore compiled as for a release, and
// the calls of libuv, Node and the C library are not affected.
//
// The binding exports `faults`. plan(call, first, times, errno) makes calls of that name fail: as many as `times`, from
// the `first`th on. clear() removes the plan. made() returns how often each name was called since then, and failed()
// how many of these calls the plan made fail.
#include <errno.h>
#include <napi.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <uv.h>

#include <limits>
#include <mutex>
#include <new>
#include <string>

#include "../../native/js.h"

namespace {

struct Plan {
  std::string call;
  int64_t first = 0;
  int64_t times = 0;
  int error = 0;
};

struct Count {
  const char* call = nullptr;
  int64_t made = 0;
};

// Shared by the whole process, because the calls of a worker that is ending can only be observed from another thread.
struct {
  std::mutex mutex;
  Plan plan;
  Count counts[64];
  int64_t failed = 0;
} state;

// Counts a call. If the plan makes the call fail, sets errno and returns true.
bool fails(const char* call) {
  std::lock_guard<std::mutex> lock(state.mutex);
  for (Count& count : state.counts) {
    if (count.call == nullptr) count.call = call;
    if (strcmp(count.call, call) != 0) continue;
    count.made++;
    const Plan& plan = state.plan;
    if (plan.call != call || count.made < plan.first || count.made - plan.first >= plan.times) return false;
    state.failed++;
    errno = plan.error;
    return true;
  }
  abort();  // `counts` is too small
}

// Replaces the plan and resets the counters. The destructor of `plan` frees the old plan after the mutex is released.
void begin(Plan plan) {
  std::lock_guard<std::mutex> lock(state.mutex);
  std::swap(state.plan, plan);
  for (Count& count : state.counts) count.made = 0;
  state.failed = 0;
}

// plan(call, first, times, errno): makes as many calls of that name fail as `times` says, from the `first`th on. If
// `times` is negative, all further calls fail. Resets the counters.
void plan(const Napi::CallbackInfo& info) {
  int64_t times = js::to_integer(info[2]);
  Plan plan = {js::to_string(info[0]), js::to_integer(info[1]), times, js::to_int(info[3])};
  if (times < 0) plan.times = std::numeric_limits<int64_t>::max();
  begin(std::move(plan));
}

// clear(): removes the plan and resets the counters.
void clear(const Napi::CallbackInfo&) { begin({}); }

// made(): returns the number of calls of each name, including those that failed.
Napi::Value made(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  std::lock_guard<std::mutex> lock(state.mutex);
  for (const Count& count : state.counts) {
    if (count.call != nullptr) result.Set(count.call, static_cast<double>(count.made));
  }
  return result;
}

// failed(): returns the number of calls that the plan made fail.
Napi::Value failed(const Napi::CallbackInfo& info) {
  std::lock_guard<std::mutex> lock(state.mutex);
  return Napi::Number::New(info.Env(), static_cast<double>(state.failed));
}

void define(Napi::Env env, Napi::Object exports) {
  auto result = Napi::Object::New(env);
  result.Set("plan", Napi::Function::New<plan>(env, "plan"));
  result.Set("clear", Napi::Function::New<clear>(env, "clear"));
  result.Set("made", Napi::Function::New<made>(env, "made"));
  result.Set("failed", Napi::Function::New<failed>(env, "failed"));
  exports.Set("faults", result);
}

}  // namespace

// The mangled name of fd_io::define, the last of the functions that add exports.
extern "C" void __real__ZN5fd_io6defineEN4Napi6ObjectE(Napi::Object exports);
extern "C" void __wrap__ZN5fd_io6defineEN4Napi6ObjectE(Napi::Object exports);
void __wrap__ZN5fd_io6defineEN4Napi6ObjectE(Napi::Object exports) {
  __real__ZN5fd_io6defineEN4Napi6ObjectE(exports);
  define(exports.Env(), exports);
}

// `symbol` is the linker symbol of the call. Some calls have another symbol with large file support.
#define CALL(name, symbol, type, parameters, ...) \
  extern "C" type __real_##symbol parameters;     \
  extern "C" type __wrap_##symbol parameters;     \
  type __wrap_##symbol parameters { return fails(name) ? type{-1} : __real_##symbol(__VA_ARGS__); }

CALL("accept4", accept4, int, (int fd, sockaddr* address, socklen_t* length, int flags), fd, address, length, flags)
CALL("access", access, int, (const char* path, int mode), path, mode)
CALL("bind", bind, int, (int fd, const sockaddr* address, socklen_t length), fd, address, length)
CALL("connect", connect, int, (int fd, const sockaddr* address, socklen_t length), fd, address, length)
CALL("epoll_create1", epoll_create1, int, (int flags), flags)
CALL("epoll_ctl", epoll_ctl, int, (int epoll, int what, int fd, epoll_event* event), epoll, what, fd, event)
CALL("epoll_wait", epoll_wait, int, (int fd, epoll_event* events, int room, int ms), fd, events, room, ms)
CALL("fcntl", fcntl64, int, (int fd, int what, int value), fd, what, value)
CALL("getpeername", getpeername, int, (int fd, sockaddr* address, socklen_t* length), fd, address, length)
CALL("getsockname", getsockname, int, (int fd, sockaddr* address, socklen_t* length), fd, address, length)
CALL("getsockopt", getsockopt, int, (int fd, int level, int name, void* value, socklen_t* length), fd, level, name,
     value, length)
CALL("ioctl", ioctl, int, (int fd, unsigned long request, void* argument), fd, request, argument)
CALL("listen", listen, int, (int fd, int backlog), fd, backlog)
CALL("memfd_create", memfd_create, int, (const char* name, unsigned flags), name, flags)
CALL("open", open64, int, (const char* path, int flags), path, flags)
CALL("pipe2", pipe2, int, (int* fds, int flags), fds, flags)
CALL("poll", poll, int, (pollfd * fds, nfds_t count, int ms), fds, count, ms)
CALL("recv", recv, ssize_t, (int fd, void* bytes, size_t length, int flags), fd, bytes, length, flags)
CALL("recvmsg", recvmsg, ssize_t, (int fd, msghdr* message, int flags), fd, message, flags)
CALL("send", send, ssize_t, (int fd, const void* bytes, size_t length, int flags), fd, bytes, length, flags)
CALL("setsockopt", setsockopt, int, (int fd, int level, int name, const void* value, socklen_t length), fd, level, name,
     value, length)
CALL("socket", socket, int, (int domain, int type, int protocol), domain, type, protocol)
CALL("socketpair", socketpair, int, (int domain, int type, int protocol, int* fds), domain, type, protocol, fds)
CALL("unlink", unlink, int, (const char* path), path)
CALL("waitpid", waitpid, int, (int pid, int* status, int options), pid, status, options)
CALL("write", write, ssize_t, (int fd, const void* bytes, size_t length), fd, bytes, length)

// System calls that the addon makes without the wrapper of the C library. Arguments that a call does not use are passed
// on unchanged.
extern "C" long __real_syscall(long number, ...);
extern "C" long __wrap_syscall(long number, long a, long b, long c, long d, long e);
long __wrap_syscall(long number, long a, long b, long c, long d, long e) {
  const char* call = number == SYS_statx        ? "statx"
                     : number == SYS_sendmsg    ? "sendmsg"
                     : number == SYS_pidfd_open ? "pidfd_open"
                                                : "fstat";
  return fails(call) ? -1 : __real_syscall(number, a, b, c, d, e);
}

// mmap(2) returns MAP_FAILED.
extern "C" void* __real_mmap64(void* address, size_t length, int protection, int flags, int fd, off_t offset);
extern "C" void* __wrap_mmap64(void* address, size_t length, int protection, int flags, int fd, off_t offset);
void* __wrap_mmap64(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return fails("mmap") ? MAP_FAILED : __real_mmap64(address, length, protection, flags, fd, offset);
}

// close(2) closes the fd even if it fails.
extern "C" int __real_close(int fd);
extern "C" int __wrap_close(int fd);
int __wrap_close(int fd) {
  int result = __real_close(fd);
  return fails("close") ? -1 : result;
}

// Functions of libuv return a negative errno.
extern "C" int __real_uv_poll_init(uv_loop_t* loop, uv_poll_t* handle, int fd);
extern "C" int __wrap_uv_poll_init(uv_loop_t* loop, uv_poll_t* handle, int fd);
int __wrap_uv_poll_init(uv_loop_t* loop, uv_poll_t* handle, int fd) {
  return fails("uv_poll_init") ? -errno : __real_uv_poll_init(loop, handle, fd);
}

extern "C" int __real_uv_poll_start(uv_poll_t* handle, int events, uv_poll_cb callback);
extern "C" int __wrap_uv_poll_start(uv_poll_t* handle, int events, uv_poll_cb callback);
int __wrap_uv_poll_start(uv_poll_t* handle, int events, uv_poll_cb callback) {
  return fails("uv_poll_start") ? -errno : __real_uv_poll_start(handle, events, callback);
}

extern "C" int __real_uv_thread_create_ex(uv_thread_t* id, const uv_thread_options_t* options, uv_thread_cb entry,
                                          void* argument);
extern "C" int __wrap_uv_thread_create_ex(uv_thread_t* id, const uv_thread_options_t* options, uv_thread_cb entry,
                                          void* argument);
int __wrap_uv_thread_create_ex(uv_thread_t* id, const uv_thread_options_t* options, uv_thread_cb entry,
                               void* argument) {
  return fails("uv_thread_create") ? -errno : __real_uv_thread_create_ex(id, options, entry, argument);
}

// The three forms of operator new that the addon uses, by their mangled names: for one object, for an array, and
// without exceptions.
extern "C" void* __real__Znwm(size_t size);
extern "C" void* __wrap__Znwm(size_t size);
extern "C" void* __wrap__Znam(size_t size);
extern "C" void* __wrap__ZnwmRKSt9nothrow_t(size_t size, const std::nothrow_t&);
void* __wrap__Znwm(size_t size) {
  if (fails("operator new")) throw std::bad_alloc();
  return __real__Znwm(size);
}
extern "C" void* __real__Znam(size_t size);
void* __wrap__Znam(size_t size) {
  if (fails("operator new")) throw std::bad_alloc();
  return __real__Znam(size);
}
extern "C" void* __real__ZnwmRKSt9nothrow_t(size_t size, const std::nothrow_t& nothrow);
void* __wrap__ZnwmRKSt9nothrow_t(size_t size, const std::nothrow_t& nothrow) {
  return fails("operator new") ? nullptr : __real__ZnwmRKSt9nothrow_t(size, nothrow);
}
