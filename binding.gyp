{
  # Warnings are errors where the addon is developed (1), not where it is installed, with a compiler that we do not know.
  'variables': {'strict%': 0},
  'targets': [
    {
      'target_name': 'async_accept',
      'sources': [
        'native/addon.cc',
        'native/fd_functions.cc',
        'native/libstdcxx.cc',
        'native/listener.cc',
        'native/listener_handle.cc',
        'native/messages.cc',
        'native/readiness.cc',
        'native/sockaddr.cc',
        'native/sys.cc',
        'native/unix_diag.cc',
      ],
      'dependencies': ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all"],
      'defines': ['NAPI_VERSION=9', 'NODE_ADDON_API_DISABLE_DEPRECATED', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS'],
      'cflags': ['-Wall', '-Wextra'],
      'cflags_cc': ['-std=c++17', '-fvisibility=hidden'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fno-rtti'],
      'conditions': [['strict==1', {'cflags': ['-Werror']}]],
    },
  ],
}
