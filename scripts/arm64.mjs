// Runs tests with the binary for arm64, on Node's own for arm64, under qemu-user (Debian: qemu-user,
// g++-aarch64-linux-gnu). node scripts/arm64.mjs [test file...]
// qemu knows neither TCP_INFO nor sock_diag, so what looks at the backlog cannot be among them.
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

// The kernel does not start a program of another machine, but this. What the tests start is to be of that machine, too.
const emulated = join(dirname(program), 'emulated')
writeFileSync(emulated, `#!/bin/sh\nexec qemu-aarch64 -L /usr/aarch64-linux-gnu '${program}' "$@"\n`, { mode: 0o755 })
const ours = `data:text/javascript,process.execPath=${encodeURIComponent(JSON.stringify(emulated))}`

const { status, error } = spawnSync(
  emulated,
  // Emulation is some ten times slower.
  ['--import', ours, '--import=tsx', '--expose-gc', 'node_modules/mocha/lib/cli/cli.js', '--timeout=300000', ...tests],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      PREBUILDS_ONLY: '1',
      // esbuild is for the machine that npm has seen; it can be started as it is.
      ESBUILD_BINARY_PATH: join(root, `node_modules/@esbuild/linux-${process.arch}/bin/esbuild`),
    },
  },
)
if (error) throw error
// None when a signal has ended it.
process.exitCode = status === 0 ? 0 : 1
