interface Row {
  /** The man page, in section 2; undefined for a call of libuv. */
  page?: string
  errnos: string
  /** The `syscall` of the error, if it is not the call itself. */
  within?: string[]
  /** Other error codes that the errno may cause. */
  instead?: string[]
}

/** The calls that the addon makes, and the errnos in their man pages. */
export const calls: Record<string, Row> = {
  // With the network errors in the section "Error handling", and those that "various Linux kernels can return".
  accept4: {
    page: 'accept',
    errnos:
      'EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EOPNOTSUPP EPERM EPROTO ' +
      'ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH ENETUNREACH',
    // The name that net.Server reports.
    within: ['accept4', 'accept'],
  },
  // If the program in memory cannot be executed, the addon uses one in a file.
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
    // An fd that could not be removed is still registered the next time.
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
    // A socket without a peer is reported as not connected.
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
  mmap: { page: 'mmap', errnos: 'EACCES EAGAIN EBADF EEXIST EINVAL ENFILE ENODEV ENOMEM EOVERFLOW EPERM ETXTBSY' },
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
    // A PROXY header is received together with the fds that were sent with it.
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
    // bind records the identity of the file that it has created.
    within: ['statx', 'sock_diag', 'bind'],
  },
  // On failure the path stays, with a warning.
  unlink: {
    page: 'unlink',
    errnos: 'EACCES EBUSY EFAULT EIO EISDIR ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EPERM EROFS',
  },
  // Without a thread, the caller closes the fd itself.
  uv_thread_create: { errnos: 'EAGAIN' },
  // libuv passes on the errors of epoll_ctl(2), and returns EEXIST if another handle of the loop has the fd.
  uv_poll_init: {
    errnos: 'EEXIST EBADF ENOMEM ENOSPC EPERM',
    within: ['poll', 'epoll_ctl'],
    instead: ['ERR_FD_IN_USE'],
  },
  waitpid: { page: 'waitpid', errnos: 'EAGAIN ECHILD EINTR EINVAL ESRCH' },
  write: {
    page: 'write',
    errnos: 'EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE',
  },
  uv_poll_start: { errnos: 'EEXIST', within: ['poll', 'epoll_ctl', 'accept4', 'accept'] },
}
