{
  'variables': {
    # Treats warnings as errors, for development only: the compilers of users are unknown.
    'strict%': 0,
    # Makes calls fail on request, for tests.
    'faults%': 0,
  },
  'targets': [
    {
      'target_name': 'async_accept',
      'sources': [
        'native/addon.cc',
        'native/bound_paths.cc',
        'native/closer.cc',
        'native/exec_helper.cc',
        'native/fd_facts.cc',
        'native/fd_functions.cc',
        'native/fd_io.cc',
        'native/files.cc',
        'native/libstdcxx.cc',
        'native/listener.cc',
        'native/listener_handle.cc',
        'native/messages.cc',
        'native/module.cc',
        'native/readiness.cc',
        'native/sockaddr.cc',
        'native/sys.cc',
        'native/sys_fstat.cc',
        'native/unix_diag.cc',
      ],
      'dependencies': ['async_accept_exec', "<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all"],
      'defines': ['NAPI_VERSION=9', 'NODE_ADDON_API_DISABLE_DEPRECATED', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS'],
      # -Wa,-I: the assembler finds async_accept_exec there.
      'cflags': ['-Wall', '-Wextra', '-Wa,-I<(PRODUCT_DIR)'],
      'cflags_cc': ['-std=c++17', '-fvisibility=hidden'],
      # -Bsymbolic: Node exports symbols of C++ containers, which would otherwise replace those of the addon. nodelete:
      # the end of a worker unloads the addon, but one of its threads may still be in close(2).
      'ldflags': ['-Wl,-Bsymbolic,-z,nodelete'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fno-rtti'],
      'conditions': [
        ['strict==1', {'cflags': ['-Werror']}],
        ['faults==1', {
          'sources': ['test/native/faults.cc'],
          # With assertions, the addon contains its own copy of the string functions of libstdc++. Their allocations can
          # then fail too.
          'defines': ['_GLIBCXX_ASSERTIONS'],
          'ldflags': [
            '-Wl,--wrap=accept4,--wrap=bind,--wrap=close,--wrap=connect,--wrap=epoll_create1,--wrap=epoll_ctl',
            '-Wl,--wrap=epoll_wait,--wrap=fcntl64,--wrap=getpeername,--wrap=getsockname',
            '-Wl,--wrap=getsockopt,--wrap=ioctl,--wrap=listen,--wrap=open64,--wrap=pipe2,--wrap=poll,--wrap=recv',
            '-Wl,--wrap=recvmsg,--wrap=send,--wrap=setsockopt,--wrap=socket,--wrap=socketpair',
            '-Wl,--wrap=syscall,--wrap=uv_poll_init,--wrap=uv_poll_start,--wrap=uv_thread_create_ex',
            '-Wl,--wrap=_Znam,--wrap=_Znwm,--wrap=_ZnwmRKSt9nothrow_t,--wrap=_ZN5fd_io6defineEN4Napi6ObjectE',
            '-Wl,--wrap=access,--wrap=memfd_create,--wrap=mmap64,--wrap=unlink,--wrap=waitpid,--wrap=write',
          ],
        }],
      ],
    },
    {
      # The program of spawnActivated(), which the addon embeds. It links only the C library.
      'target_name': 'async_accept_exec',
      'type': 'executable',
      'sources': ['native/exec_helper.c'],
      'cflags': ['-Wall', '-Wextra'],
      'cflags_c': ['-std=gnu11', '-Os'],
      'ldflags!': ['-rdynamic'],
      'ldflags': ['-Wl,--as-needed', '-Wl,--build-id=none', '-Wl,--gc-sections', '-s'],
      'conditions': [['strict==1', {'cflags': ['-Werror']}]],
    },
  ],
}
