{
  'variables': {
    # Warnings are errors where the addon is developed, not where it is installed, with a compiler that we do not know.
    'strict%': 0,
    # For tests: calls fail on request.
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
      # For the assembler: where async_accept_exec is.
      'cflags': ['-Wall', '-Wextra', '-Wa,-I<(PRODUCT_DIR)'],
      'cflags_cc': ['-std=c++17', '-fvisibility=hidden'],
      # Node exports containers of its own, which would take the place of ours. A worker's end unloads the addon, but one
      # of its threads may still be in close(2).
      'ldflags': ['-Wl,-Bsymbolic,-z,nodelete'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fno-rtti'],
      'conditions': [
        ['strict==1', {'cflags': ['-Werror']}],
        ['faults==1', {
          'sources': ['test/native/faults.cc'],
          # With assertions strings are compiled here, and allocate here, rather than in the library.
          'defines': ['_GLIBCXX_ASSERTIONS'],
          'ldflags': [
            '-Wl,--wrap=accept4,--wrap=bind,--wrap=close,--wrap=connect,--wrap=epoll_create1,--wrap=epoll_ctl',
            '-Wl,--wrap=epoll_wait,--wrap=fcntl64,--wrap=getpeername,--wrap=getsockname',
            '-Wl,--wrap=getsockopt,--wrap=ioctl,--wrap=listen,--wrap=open64,--wrap=pipe2,--wrap=poll,--wrap=recv',
            '-Wl,--wrap=recvmsg,--wrap=send,--wrap=sendmsg,--wrap=setsockopt,--wrap=socket,--wrap=socketpair',
            '-Wl,--wrap=syscall,--wrap=uv_poll_init,--wrap=uv_poll_start,--wrap=uv_thread_create_ex',
            '-Wl,--wrap=_Znam,--wrap=_Znwm,--wrap=_ZnwmRKSt9nothrow_t,--wrap=_ZN5fd_io6defineEN4Napi6ObjectE',
            '-Wl,--wrap=access,--wrap=memfd_create,--wrap=unlink,--wrap=write',
          ],
        }],
      ],
    },
    {
      # The program of spawnActivated, which the addon has within itself. It needs the C library alone.
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
