// One function for each system call. Each function returns a result or a negative errno. The caller decides what a
// failure means.
#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>

namespace sys {

// socket(2). The fd is created close-on-exec and non-blocking.
int socket(int domain, int type, int protocol = 0);

// bind(2)
int bind(int fd, const sockaddr* address, socklen_t length);

// listen(2)
int listen(int fd, int backlog);

// accept4(2). The fd is created close-on-exec and non-blocking. On entry, `*length` is the size of the buffer at
// `address`. On return, it is the length of the peer's address.
int accept4(int fd, sockaddr* address, socklen_t* length);

// connect(2)
int connect(int fd, const sockaddr* address, socklen_t length);

// close(2). The fd is closed even if this returns an error, such as -EINTR.
int close(int fd);

// close(2) after setting SO_LINGER with a timeout of 0 (socket(7)). A TCP peer receives a reset.
int reset(int fd);

// fcntl(2): F_GETFD, F_DUPFD_CLOEXEC, F_SETFD and F_SETFL. A duplicate shares the open file description, including
// O_NONBLOCK. F_DUPFD_CLOEXEC returns the lowest unused fd that is at least `lowest`.
int check_open(int fd);
int dup_cloexec(int fd, int lowest = 0);
int set_cloexec(int fd);
int set_nonblock(int fd);

// What statx(2) and fstat(2) report about a file: its inode, its type (S_IFSOCK and so on) and its device. statx()
// passes AT_STATX_DONT_SYNC, so that a network or FUSE file system answers from its cache, without blocking.
struct File {
  uint64_t inode;
  uint32_t mode;
  uint64_t device;
};
int statx(int fd, File* result);
int fstat(int fd, File* result);

// open(2) of /dev/null, close-on-exec, to reserve an fd number.
int open_null();

// getsockname(2) and getpeername(2)
int getsockname(int fd, sockaddr* address, socklen_t* length);
int getpeername(int fd, sockaddr* address, socklen_t* length);

// getsockopt(2) and setsockopt(2)
int getsockopt(int fd, int level, int name, void* value, socklen_t* length);
int setsockopt(int fd, int level, int name, const void* value, socklen_t length);

// poll(2) of one fd with a timeout of 0. Returns the events in `events` that are true now. Also returns POLLERR,
// POLLHUP and POLLNVAL, which poll(2) always reports. Returns 0 if there are none.
int poll(int fd, short events);

// ioctl(2). SIOCATMARK returns 1 if the next byte to read is the urgent byte (sockatmark(3)), otherwise 0. FIONREAD
// returns the number of bytes that can be read (unix(7), tcp(7)).
int at_mark(int fd);
int unread(int fd);

// send(2) and recv(2)
ssize_t send(int fd, const void* data, size_t length);
ssize_t recv(int fd, void* data, size_t length, int flags = 0);

// sendmsg(2) and recvmsg(2), non-blocking. Received fds are close-on-exec. sendmsg() requires zeros in the padding of
// the message and its control headers.
ssize_t sendmsg(int fd, const msghdr* message);
ssize_t recvmsg(int fd, msghdr* message, int flags = 0);

// socketpair(2) of unix sockets, close-on-exec; pipe2(2), close-on-exec and non-blocking.
int socketpair(int type, int fds[2]);
int pipe(int fds[2]);

// pidfd_open(2) of this process, close-on-exec.
int pidfd_open_self();

// epoll_create1(2), close-on-exec; epoll_ctl(2), with the fd as the data of the event; epoll_wait(2) with a timeout of
// 0.
int epoll_create();
int epoll_add(int epoll, int fd, uint32_t events);
int epoll_remove(int epoll, int fd);
int epoll_wait(int epoll, epoll_event* events, int room);

// memfd_create(2) of an executable file, close-on-exec; write(2); access(2) with X_OK.
int memfd_create(const char* name);
ssize_t write(int fd, const void* data, size_t length);
int executable(const char* path);

// waitpid(2) with WNOHANG: returns the pid if that child has ended, otherwise 0.
int wait(int pid);

// mmap(2) of the first `length` bytes of a file, readable, writable and shared with all processes that map it. Stores
// the address in `*address`.
int mmap_shared(int fd, size_t length, void** address);

// open(2) with O_PATH, which keeps the inode in use and needs no permission for the file; statx(2) and unlink(2) of a
// path. These functions do not follow a symbolic link in the last component of the path.
int open_path(const char* path);
int statx(const char* path, File* result);
int unlink(const char* path);

}  // namespace sys
