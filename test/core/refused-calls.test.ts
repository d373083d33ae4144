import assert from 'node:assert/strict'
import { runNode, temporaryDirectory } from '../helpers.js'
import { needsStrace } from '../needs.js'

// The answers of a container's seccomp filter, and of a kernel that lacks the system call.
const errnos = ['EPERM', 'ENOSYS']

/** The outcome of each use when the kernel refuses each of the calls: 'ok' or the error. */
async function refusing(calls: string, errno: string, uses: string[]): Promise<Record<string, string>> {
  const strace = ['strace', '-f', '-qq', '--seccomp-bpf', '-o', '/dev/null', '-e', `trace=${calls}`]
  const command = [...strace, '-e', `inject=${calls}:error=${errno}`]
  const { code, stdout, stderr } = await runNode('refused-calls.mjs', [temporaryDirectory(), ...uses], command)
  assert.deepEqual([code, stderr], [0, ''])
  return JSON.parse(stdout)
}

const all = ['listener', 'connection', 'channel', 'serve', 'backlog', 'unixBacklog', 'pidfd', 'stdin', 'storeFds']

describe('When the kernel refuses', () => {
  before(function () {
    needsStrace(this)
  })

  for (const errno of errnos) {
    // Node itself needs fstat(2), so it is always available.
    it(`statx(2) with ${errno}, every API falls back to fstat(2)`, async () => {
      const outcomes = await refusing('statx', errno, all)
      assert.deepEqual(outcomes, Object.fromEntries(all.map((use) => [use, 'ok'])))
    })

    it(`getsockopt(2) with ${errno}, a listener accepts, and an open fd is not mistaken for a closed one`, async () => {
      const outcomes = await refusing('getsockopt', errno, ['accept', 'listener', 'stdin'])
      assert.deepEqual(outcomes, { accept: 'ok', listener: `${errno} statx`, stdin: `${errno} statx` })
    })

    it(`getpeername(2) with ${errno}, a connected socket is not mistaken for an unconnected one`, async () => {
      assert.deepEqual(await refusing('getpeername', errno, ['channel']), { channel: `${errno} statx` })
    })

    it(`pidfd_open(2) with ${errno}, activation() relies on LISTEN_PID`, async () => {
      assert.deepEqual(await refusing('pidfd_open', errno, ['pidfd']), { pidfd: 'ERR_ACTIVATION' })
    })

    it(`setsockopt(2) with ${errno}, close() and reset() still close connections`, async () => {
      assert.deepEqual(await refusing('setsockopt', errno, ['channel']), { channel: 'ok' })
    })
  }
})
