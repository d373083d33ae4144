// Runs tests with the binary for musl, on a Node for musl (Debian: musl, patchelf):
// node scripts/test-musl.mjs [test file...]
import { spawnSync } from 'node:child_process'
import { delimiter, dirname } from 'node:path'
import { muslAddon } from './musl.mjs'
import { muslNode } from './musl-node.mjs'
import { root } from './steps.mjs'

// The tests of native code, and those that depend on what Node and the C library do. Not here: tests of other programs
// (frameworks, proxies, systemd), of the package, and the long ones on models.
const tests = [
  ...['bad-input', 'frozen-intrinsics', 'options', 'realms', 'workers'].map((name) => `test/${name}.test.ts`),
  // load-addon: it loads what was compiled for glibc.
  'test/core/!(load-addon).test.ts',
  'test/accept/!(listener-model).test.ts',
  'test/peek/*.test.ts',
  'test/handover/!(systemd).test.ts',
  'test/serve/!(serving-model|haproxy|nginx|drain-under-load).test.ts',
  'test/inherit/{differences,environment,life,sockets}.test.ts',
]

const excluded = [
  // execvp() of musl does not start a shell when the kernel refuses a file with ENOEXEC.
  'runs a script without an interpreter line as execvp does',
  // strace makes the first socket(2) of the process fail. Here it belongs to the diagnostic report, by which the package
  // detects musl: the path of the dynamic loader is not in the first page of this executable.
  'on a host without IPv6',
  // The chroot contains the libraries that glibc's ldd lists.
  'needs no shell, no /proc, and no directory for temporary files',
]

const given = process.argv.slice(2)
const node = muslNode()
const { status, error } = spawnSync(
  node,
  [
    'node_modules/mocha/bin/mocha.js',
    ...(given.length > 0 ? given : tests),
    ...['--reporter', 'dot', '--invert', '--grep', excluded.join('|')],
  ],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      ASYNC_ACCEPT_ADDON: muslAddon(process.arch),
      // Tests that start "node" get this one.
      PATH: `${dirname(node)}${delimiter}${process.env.PATH}`,
    },
  },
)
if (error) throw error
// `status` is null when a signal ended it.
process.exitCode = status === 0 ? 0 : 1
