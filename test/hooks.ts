import { runCleanups } from './helpers.js'

export const mochaHooks = { afterEach: runCleanups }
