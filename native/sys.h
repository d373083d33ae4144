// One function per system call. Each takes what its man page says and returns a result or a negative errno. No
// policy: what a failure means is for the caller to say.
#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstdint>

namespace sys {

// socket(2). The fd is close-on-exec and non-blocking from birth.
int socket(int domain, int type, int protocol = 0);

// bind(2)
int bind(int fd, const sockaddr* address, socklen_t length);

// listen(2)
int listen(int fd, int backlog);

// accept4(2). The fd is close-on-exec and non-blocking from birth; `*length` is the room at `address` and becomes
// the length of the peer's address.
int accept4(int fd, sockaddr* address, socklen_t* length);

// connect(2)
int connect(int fd, const sockaddr* address, socklen_t length);

// close(2). The fd is gone whatever is returned, also after EINTR.
int close(int fd);

// close(2) after SO_LINGER with a time of 0 (socket(7)): a TCP peer gets a reset.
int reset(int fd);

// fcntl(2): F_GETFD, F_DUPFD_CLOEXEC, F_SETFD and F_SETFL. The copy shares the open file description, O_NONBLOCK
// included. F_DUPFD_CLOEXEC gives the lowest number that is free from `lowest` on.
int check_open(int fd);
int dup_cloexec(int fd, int lowest = 0);
int set_cloexec(int fd);
int set_nonblock(int fd);

// What statx(2) and fstat(2) say of an fd: which file it is, of its device, and of which kind (S_IFSOCK and so on).
// statx() asks with AT_STATX_DONT_SYNC, so that a network or FUSE file system answers from its cache, without waiting.
struct File {
  uint64_t inode;
  uint32_t mode;
  uint64_t device;
};
int statx(int fd, File* result);
int fstat(int fd, File* result);

// open(2) of /dev/null, close-on-exec: an fd for the sake of its number.
int open_null();

// getsockname(2) and getpeername(2)
int getsockname(int fd, sockaddr* address, socklen_t* length);
int getpeername(int fd, sockaddr* address, socklen_t* length);

// getsockopt(2) and setsockopt(2)
int getsockopt(int fd, int level, int name, void* value, socklen_t* length);
int setsockopt(int fd, int level, int name, const void* value, socklen_t length);

// poll(2) of one fd, without waiting: the events of `events` that are true of it now, and POLLERR, POLLHUP and
// POLLNVAL, which need not be asked for. 0 when none is.
int poll(int fd, short events);

// ioctl(2): SIOCATMARK, whether the next byte to read is the urgent one (sockatmark(3)), 0 or 1; and FIONREAD, how many
// bytes can be read (unix(7), tcp(7)).
int at_mark(int fd);
int unread(int fd);

// send(2) and recv(2)
ssize_t send(int fd, const void* data, size_t length);
ssize_t recv(int fd, void* data, size_t length, int flags = 0);

// sendmsg(2) and recvmsg(2), without waiting; received fds are close-on-exec.
ssize_t sendmsg(int fd, const msghdr* message);
ssize_t recvmsg(int fd, msghdr* message, int flags = 0);

// socketpair(2) of unix sockets, close-on-exec; pipe2(2), close-on-exec and non-blocking.
int socketpair(int type, int fds[2]);
int pipe(int fds[2]);

// pidfd_open(2) of this process, close-on-exec.
int pidfd_open_self();

// epoll_create1(2), close-on-exec; epoll_ctl(2), with the fd as the event's data; epoll_wait(2), without waiting.
int epoll_create();
int epoll_add(int epoll, int fd, uint32_t events);
int epoll_remove(int epoll, int fd);
int epoll_wait(int epoll, epoll_event* events, int room);

// memfd_create(2), close-on-exec, of a file that may be executed; write(2); access(2) with X_OK.
int memfd_create(const char* name);
ssize_t write(int fd, const void* data, size_t length);
int executable(const char* path);

// open(2) with O_PATH, which holds an inode and needs no permission for the file; statx(2) and unlink(2) of a path.
// None of them follows a symbolic link at its end.
int open_path(const char* path);
int statx(const char* path, File* result);
int unlink(const char* path);

}  // namespace sys
