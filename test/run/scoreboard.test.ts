import assert from 'node:assert/strict'
import { join } from 'node:path'
import { Scoreboard } from '../../src/run/scoreboard.js'
import { temporaryDirectory } from '../helpers.js'

describe('The scoreboard', () => {
  it('gives each place to one worker, and frees those of a worker that was killed', () => {
    const path = join(temporaryDirectory(), 'board')
    const supervisor = Scoreboard.create(path, 3)
    const [one, other] = [supervisor.claim(), supervisor.claim()]
    const [first, second] = [Scoreboard.open(path), Scoreboard.open(path)]
    assert.deepEqual([first.take(one), second.take(other), first.take(one)], [true, true, true])
    assert.deepEqual([first.take(one), second.take(other), first.hasRoom], [false, false, false])
    second.giveBack()
    assert.deepEqual([first.take(one), second.take(other)], [true, false])
    supervisor.clear(one)
    assert.deepEqual(
      [1, 2, 3, 4].map(() => second.take(other)),
      [true, true, true, false],
    )
    supervisor.clear(other)
    assert.equal(supervisor.hasRoom, true)
  })

  it('has no limit if none is given', () => {
    const board = Scoreboard.create(join(temporaryDirectory(), 'board'), 0)
    assert.deepEqual([board.isLimited, board.hasRoom], [false, true])
  })
})
