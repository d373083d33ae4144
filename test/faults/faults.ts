import { constants } from 'node:os'
import { getSystemErrorMap } from 'node:util'
import { type Binding, binding } from '../../src/core/binding.js'

interface Faults {
  /** From the `first`th on, so many calls of that name fail; negative: all of them. Counts anew. */
  plan(call: string, first: number, times: number, errno: number): void
  /** Nothing fails, and counting begins anew. */
  clear(): void
  /** How many calls of each name there were. */
  made(): Record<string, number>
  /** How many failed. */
  failed(): number
}

const found = (binding as Binding & { faults?: Faults }).faults
if (found === undefined) throw new Error('this addon has no faults: npm run test:faults')
export const faults = found

/** The addon's own allocations, as if they were a call. */
export const allocation = 'operator new'

export interface Fault {
  call: string
  errno: string
  /** Which of the calls of that name, from 1 on. */
  number: number
}

// The C library knows it, and neither libuv nor Node does.
const numbers: Record<string, number> = { ENOPKG: 65, ...constants.errno }
for (const [errno, [name]] of getSystemErrorMap()) numbers[name] = -errno

export const numberOf = (errno: string): number => numbers[errno] as number

export function plan({ call, errno, number }: Fault, times = 1): void {
  faults.plan(call, number, times, numberOf(errno))
}
