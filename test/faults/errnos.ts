interface Row {
  /** Of section 2; none for a call of libuv. */
  page?: string
  errnos: string
  /** What an error says that it was, where that is not the call itself. */
  within?: string[]
  /** Codes of errors that may come of it instead. */
  instead?: string[]
}

/** The calls that the addon makes, and what their man pages say that they fail with. */
export const calls: Record<string, Row> = {
  // With the network errors of "Error handling", and those that "various Linux kernels can return".
  accept4: {
    page: 'accept',
    errnos:
      'EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EOPNOTSUPP EPERM EPROTO ' +
      'ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH ENETUNREACH',
    // As net.Server calls it.
    within: ['accept4', 'accept'],
  },
  // Where the program in memory cannot be executed, there is one in a file.
  access: { page: 'access', errnos: 'EACCES ELOOP ENAMETOOLONG ENOENT ENOTDIR EROFS EFAULT EINVAL EIO' },
  bind: {
    page: 'bind',
    errnos:
      'EACCES EADDRINUSE EBADF EINVAL ENOTSOCK EADDRNOTAVAIL EFAULT ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EROFS',
  },
  close: { page: 'close', errnos: 'EBADF EINTR EIO ENOSPC EDQUOT' },
  connect: {
    page: 'connect',
    errnos:
      'EACCES EPERM EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNREFUSED EFAULT EINPROGRESS EINTR ' +
      'EISCONN ENETUNREACH ENOTSOCK EPROTOTYPE ETIMEDOUT',
  },
  epoll_create1: { page: 'epoll_create', errnos: 'EINVAL EMFILE ENFILE ENOMEM', within: ['epoll_ctl'] },
  epoll_ctl: {
    page: 'epoll_ctl',
    errnos: 'EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM',
    // What could not be taken out is still there the next time.
    instead: ['EEXIST'],
  },
  epoll_wait: { page: 'epoll_wait', errnos: 'EBADF EFAULT EINTR EINVAL' },
  fcntl: {
    page: 'fcntl',
    errnos: 'EACCES EAGAIN EBADF EBUSY EDEADLK EFAULT EINTR EINVAL EMFILE ENOLCK ENOTDIR EPERM',
    within: ['fcntl', 'memfd_create'],
  },
  fstat: { page: 'stat', errnos: 'EBADF EFAULT EACCES ENOMEM EOVERFLOW', within: ['statx', 'sock_diag'] },
  getpeername: {
    page: 'getpeername',
    errnos: 'EBADF EFAULT EINVAL ENOBUFS ENOTCONN ENOTSOCK',
    within: ['statx'],
    // Whatever has no peer is not connected.
    instead: ['ENOTCONN'],
  },
  getsockname: { page: 'getsockname', errnos: 'EBADF EFAULT EINVAL ENOBUFS ENOTSOCK' },
  getsockopt: {
    page: 'getsockopt',
    errnos: 'EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK',
    within: ['getsockopt', 'statx', 'accept4', 'accept', 'sock_diag'],
  },
  ioctl: { page: 'ioctl', errnos: 'EBADF EFAULT EINVAL ENOTTY' },
  listen: { page: 'listen', errnos: 'EADDRINUSE EBADF ENOTSOCK EOPNOTSUPP' },
  memfd_create: { page: 'memfd_create', errnos: 'EFAULT EINVAL EMFILE ENFILE ENOMEM EPERM' },
  open: {
    page: 'open',
    errnos:
      'EACCES EBADF EBUSY EDQUOT EEXIST EFAULT EFBIG EINTR EINVAL EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENODEV ENOENT ' +
      'ENOMEM ENOSPC ENOTDIR ENXIO EOPNOTSUPP EOVERFLOW EPERM EROFS ETXTBSY EAGAIN',
  },
  pidfd_open: { page: 'pidfd_open', errnos: 'EINVAL EMFILE ENFILE ENODEV ENOMEM ESRCH' },
  pipe2: { page: 'pipe', errnos: 'EFAULT EINVAL EMFILE ENFILE ENOPKG' },
  poll: { page: 'poll', errnos: 'EFAULT EINTR EINVAL ENOMEM' },
  recv: {
    page: 'recv',
    errnos: 'EAGAIN EBADF ECONNREFUSED EFAULT EINTR EINVAL ENOMEM ENOTCONN ENOTSOCK',
    within: ['recv', 'sock_diag'],
  },
  recvmsg: {
    page: 'recvmsg',
    errnos: 'EAGAIN EBADF ECONNREFUSED EFAULT EINTR EINVAL ENOMEM ENOTCONN ENOTSOCK',
    // A PROXY header is received with the fds that came with it.
    within: ['recvmsg', 'recv'],
  },
  send: {
    page: 'send',
    errnos:
      'EACCES EAGAIN EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE ENOBUFS ENOMEM ' +
      'ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE',
    within: ['sock_diag'],
  },
  sendmsg: {
    page: 'sendmsg',
    errnos:
      'EACCES EAGAIN EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE ENOBUFS ENOMEM ' +
      'ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE',
  },
  setsockopt: { page: 'setsockopt', errnos: 'EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK' },
  socket: {
    page: 'socket',
    errnos: 'EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT',
    within: ['socket', 'sock_diag'],
  },
  socketpair: { page: 'socketpair', errnos: 'EAFNOSUPPORT EFAULT EMFILE ENFILE EOPNOTSUPP EPROTONOSUPPORT' },
  statx: {
    page: 'statx',
    errnos: 'EACCES EBADF EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR',
    // bind notes which file it has made.
    within: ['statx', 'sock_diag', 'bind'],
  },
  // The path stays, with a warning.
  unlink: {
    page: 'unlink',
    errnos: 'EACCES EBUSY EFAULT EIO EISDIR ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EPERM EROFS',
  },
  // The close that wanted the thread is made without it.
  uv_thread_create: { errnos: 'EAGAIN' },
  // They pass on what epoll_ctl(2) says, and EEXIST where another handle of the loop has the fd.
  uv_poll_init: {
    errnos: 'EEXIST EBADF ENOMEM ENOSPC EPERM',
    within: ['poll', 'epoll_ctl'],
    instead: ['ERR_FD_IN_USE'],
  },
  write: {
    page: 'write',
    errnos: 'EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE',
  },
  uv_poll_start: { errnos: 'EEXIST', within: ['poll', 'epoll_ctl', 'accept4', 'accept'] },
}
