import assert from 'node:assert/strict'
import { runNode } from '../helpers.js'

describe('NODE_DEBUG=async-accept', () => {
  it('traces requests, results, the end of a listener, and states of a Serving', async () => {
    const { code, stdout, stderr } = await runNode('traced.mjs', [], ['env', 'NODE_DEBUG=async-accept'])
    assert.deepEqual({ code, stdout }, { code: 0, stdout: '' }, stderr)
    const lines = stderr
      .trim()
      .split('\n')
      .map((line) =>
        line
          .replace(/^ASYNC-ACCEPT \d+: /, '')
          .replace(/port \d+/, 'port')
          .replace(/fd \d+/, 'fd'),
      )
    const on = 'listener on 127.0.0.1 port:'
    assert.deepEqual(lines, [
      `${on} open, fd`,
      `${on} request 1, timeout -1 ms`,
      `${on} result of request 1: fd`,
      `${on} request 2, timeout 1 ms`,
      `${on} result of request 2: ERR_ACCEPT_TIMEOUT`,
      `${on} request 3, timeout -1 ms`,
      `${on} request 4, timeout -1 ms`,
      `${on} request 4 withdrawn`,
      'serving: serving, 0 connections',
      'serving: draining, 0 connections',
      'serving: closing, 0 connections',
      `${on} closed, 1 requests outstanding`,
      'serving: closed, 0 connections',
    ])
  })

  it('loses no connection if process.stderr.write of the application throws', async () => {
    const environment = ['env', 'NODE_DEBUG=async-accept']
    const { code, stdout, stderr } = await runNode('traced-in-vain.mjs', [], environment)
    assert.deepEqual({ code, stdout }, { code: 0, stdout: 'accepted\n' }, stderr)
  })

  it('writes nothing with another value', async () => {
    const { stderr } = await runNode('traced.mjs', [], ['env', 'NODE_DEBUG=other'])
    assert.equal(stderr, '')
  })
})
