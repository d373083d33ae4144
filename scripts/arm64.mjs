// Runs tests with the arm64 binary of the addon and Node for arm64, under qemu-user (Debian: qemu-user,
// g++-aarch64-linux-gnu): node scripts/arm64.mjs [test file...]
// qemu supports neither TCP_INFO nor sock_diag, so tests that read the backlog cannot run.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { nodeOf } from './nodes.mjs'
import { root, runNode } from './steps.mjs'

const files = process.argv.slice(2)
const tests =
  files.length > 0
    ? files
    : ['core/binding', 'accept/connection', 'accept/seqpacket', 'handover/fd-channel'].map(
        (name) => `test/${name}.test.ts`,
      )

runNode('scripts/prebuild.mjs', 'arm64')

const program = nodeOf(24, 'arm64')

// The kernel cannot execute an arm64 program, but it can execute this script. The tests start their own programs
// through process.execPath, so that they are emulated, too.
const emulated = join(dirname(program), 'emulated')
writeFileSync(emulated, `#!/bin/sh\nexec qemu-aarch64 -L /usr/aarch64-linux-gnu '${program}' "$@"\n`, { mode: 0o755 })
const ours = `data:text/javascript,process.execPath=${encodeURIComponent(JSON.stringify(emulated))}`

const { status, error } = spawnSync(
  emulated,
  // Emulation is about ten times slower.
  ['--import', ours, '--import=tsx', '--expose-gc', 'node_modules/mocha/lib/cli/cli.js', '--timeout=300000', ...tests],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      ASYNC_ACCEPT_ADDON: join(root, 'prebuilds/linux-arm64/async-accept.glibc.node'),
      // npm has installed esbuild for the host, which can execute it directly.
      ESBUILD_BINARY_PATH: join(root, `node_modules/@esbuild/linux-${process.arch}/bin/esbuild`),
    },
  },
)
if (error) throw error
// `status` is null when a signal has terminated the process.
process.exitCode = status === 0 ? 0 : 1
