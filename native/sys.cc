#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sys {

namespace {
template <typename T>
T result(T value) {
  return value < 0 ? -errno : value;
}
}  // namespace

int socket(int domain, int type, int protocol) {
  return result(::socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
}

int bind(int fd, const sockaddr* address, socklen_t length) { return result(::bind(fd, address, length)); }

int listen(int fd, int backlog) { return result(::listen(fd, backlog)); }

int accept4(int fd, sockaddr* address, socklen_t* length) {
  return result(::accept4(fd, address, length, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

int connect(int fd, const sockaddr* address, socklen_t length) { return result(::connect(fd, address, length)); }

int close(int fd) { return result(::close(fd)); }

int reset(int fd) {
  const linger at_once = {1, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  return close(fd);
}

int check_open(int fd) { return ::fcntl(fd, F_GETFD) < 0 ? -errno : 0; }

int dup_cloexec(int fd, int lowest) { return result(::fcntl(fd, F_DUPFD_CLOEXEC, lowest)); }

int set_cloexec(int fd) {
  int flags = ::fcntl(fd, F_GETFD);
  if (flags < 0) return -errno;
  return flags & FD_CLOEXEC ? 0 : result(::fcntl(fd, F_SETFD, flags | FD_CLOEXEC));
}

int set_nonblock(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return -errno;
  return flags & O_NONBLOCK ? 0 : result(::fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

// A raw system call, because musl has a statx() function only since version 1.2.5.
static int statx_at(int directory, const char* path, int flags, File* file) {
  struct ::statx found = {};
  auto error = ::syscall(SYS_statx, directory, path, flags | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &found);
  *file = {found.stx_ino, found.stx_mode, makedev(found.stx_dev_major, found.stx_dev_minor)};
  return static_cast<int>(result(error));
}

int statx(int fd, File* file) { return statx_at(fd, "", AT_EMPTY_PATH, file); }

int open_null() { return result(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

int getsockname(int fd, sockaddr* address, socklen_t* length) { return result(::getsockname(fd, address, length)); }

int getpeername(int fd, sockaddr* address, socklen_t* length) { return result(::getpeername(fd, address, length)); }

int getsockopt(int fd, int level, int name, void* value, socklen_t* length) {
  return result(::getsockopt(fd, level, name, value, length));
}

int setsockopt(int fd, int level, int name, const void* value, socklen_t length) {
  return result(::setsockopt(fd, level, name, value, length));
}

int poll(int fd, short events) {
  pollfd poll = {fd, events, 0};
  int count = ::poll(&poll, 1, 0);
  return count <= 0 ? result(count) : poll.revents;
}

int at_mark(int fd) {
  int mark = 0;
  int error = result(::ioctl(fd, SIOCATMARK, &mark));
  return error < 0 ? error : mark;
}

int unread(int fd) {
  int count = 0;
  int error = result(::ioctl(fd, FIONREAD, &count));
  return error < 0 ? error : count;
}

ssize_t send(int fd, const void* data, size_t length) { return result(::send(fd, data, length, MSG_NOSIGNAL)); }

ssize_t recv(int fd, void* data, size_t length, int flags) { return result(::recv(fd, data, length, flags)); }

// A raw system call, because sendmsg() of musl before version 1.2.4 has no room for 253 fds. The kernel
// reads the padding of musl's structures as part of the lengths, so it must be zero.
ssize_t sendmsg(int fd, const msghdr* message) {
  return result(static_cast<ssize_t>(::syscall(SYS_sendmsg, fd, message, MSG_NOSIGNAL | MSG_DONTWAIT)));
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
  return result(::recvmsg(fd, message, flags | MSG_CMSG_CLOEXEC | MSG_DONTWAIT));
}

int socketpair(int type, int fds[2]) { return result(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds)); }

int pipe(int fds[2]) { return result(::pipe2(fds, O_NONBLOCK | O_CLOEXEC)); }

int pidfd_open_self() { return static_cast<int>(result(::syscall(SYS_pidfd_open, ::getpid(), 0))); }

int epoll_create() { return result(::epoll_create1(EPOLL_CLOEXEC)); }

int epoll_add(int epoll, int fd, uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.fd = fd;
  return result(::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

int epoll_remove(int epoll, int fd) { return result(::epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr)); }

int epoll_wait(int epoll, epoll_event* events, int room) { return result(::epoll_wait(epoll, events, room, 0)); }

int memfd_create(const char* name) {
  // MFD_EXEC, which kernels before 6.3 reject. Without this flag, vm.memfd_noexec may remove the execute permission.
  constexpr unsigned kExec = 0x10;
  int fd = ::memfd_create(name, MFD_CLOEXEC | kExec);
  return result(fd < 0 && errno == EINVAL ? ::memfd_create(name, MFD_CLOEXEC) : fd);
}

ssize_t write(int fd, const void* data, size_t length) { return result(::write(fd, data, length)); }

int executable(const char* path) { return result(::access(path, X_OK)); }

int wait(int pid) {
  int status = 0;
  return static_cast<int>(result(::waitpid(pid, &status, WNOHANG)));
}

int mmap_shared(int fd, size_t length, void** address) {
  *address = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return *address == MAP_FAILED ? result(-1) : 0;
}

int open_path(const char* path) { return result(::open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC)); }

int statx(const char* path, File* file) { return statx_at(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, file); }

int unlink(const char* path) { return result(::unlink(path)); }

}  // namespace sys
