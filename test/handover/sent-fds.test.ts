import assert from 'node:assert/strict'
import { closeSync, openSync } from 'node:fs'
import type { FdChannel, FdMessage } from '../../src/index.js'
import { channels, copiesOf, inode, inodesOf, next, openFiles, socketTypes } from '../channels.js'
import { codeOf, flagsOf, runNode, until } from '../helpers.js'
import { leaveNoFds } from '../leaks.js'
import { lookedBefore } from '../looked-before.js'

const waiting = 20

/** Sends until messages have to wait. */
const fill = (channel: FdChannel) => Array.from({ length: waiting }, () => channel.send(Buffer.alloc(60_000)))

async function takeAll(channel: FdChannel): Promise<void> {
  for (let i = 0; i < waiting; i++) await next(channel)
}

for (const type of socketTypes) {
  describe(`The fds of a queued message, ${type}`, () => {
    lookedBefore()
    leaveNoFds()

    it('are those of the call, even if the caller closes them and their numbers are reused', async () => {
      const [a, b] = channels(type)
      const filled = fill(a)
      const [one, two] = openFiles(2) as [number, number]
      const wanted = inode(one)
      const sent = a.send('late', [one])
      closeSync(one)
      const reused = openSync('/dev/null', 'r')
      assert.equal(reused, one)
      await takeAll(b)
      assert.deepEqual(inodesOf(await next(b)), [wanted])
      await Promise.all([...filled, sent])
      closeSync(reused)
      assert.equal(copiesOf(two), 0)
    })

    it('are not duplicated when the message is sent at once', async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      const sent = a.send('now', [file, file])
      assert.equal(copiesOf(file), 0)
      await sent
      assert.equal((await next(b))?.fds.map((fd) => fd.close()).length, 2)
    })

    it("are duplicated until the message is sent, with the caller's flags", async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      const flags = flagsOf(file)
      const sends = [...fill(a), a.send('x', [file, file]), a.send('y', [file])]
      assert.equal(copiesOf(file), 3)
      assert.equal(flagsOf(file), flags)
      await takeAll(b)
      const messages = [(await next(b)) as FdMessage, (await next(b)) as FdMessage]
      await Promise.all(sends)
      await until(() => copiesOf(file) === 3) // the received ones
      for (const { fds } of messages) for (const fd of fds) fd.close()
      await until(() => copiesOf(file) === 0)
    })

    for (const [how, end, code] of [
      ['the channel is closed', (a: FdChannel) => a.close(), 'ERR_CHANNEL_CLOSED'],
      ['the peer closes its end', (_: FdChannel, b: FdChannel) => b.close(), 'EPIPE'],
    ] as const) {
      it(`are closed when ${how}`, async () => {
        const [a, b] = channels(type)
        const [file] = openFiles(1) as [number]
        const sends = [...fill(a), a.send('x', [file, file])]
        const outcome = sends.at(-1)?.catch(codeOf)
        for (const each of sends) each.catch(() => {})
        end(a, b)
        assert.equal(await outcome, code)
        await until(() => copiesOf(file) === 0)
      })
    }

    it('must be open at the call: EBADF otherwise, and the other messages are sent', async () => {
      const [a, b] = channels(type)
      const [file] = openFiles(1) as [number]
      const filled = fill(a)
      const refused = a.send('never', [file, 999_999])
      const after = a.send('after', [file])
      await assert.rejects(refused, { code: 'EBADF', syscall: 'fcntl' })
      await until(() => copiesOf(file) === 1)
      await takeAll(b)
      const message = (await next(b)) as FdMessage
      assert.equal(String(message.data), 'after')
      assert.deepEqual(inodesOf(message), [inode(file)])
      await Promise.all([...filled, after])
    })

    it('need room for their duplicates: EMFILE otherwise, and no duplicate is left', async () => {
      const { code, stdout, stderr } = await runNode('copies-at-limit.mjs', [type], ['prlimit', '--nofile=64'])
      assert.deepEqual([code, stdout, stderr], [0, 'EMFILE fcntl, 2 free again\nthe others came\n', ''])
    })
  })
}
