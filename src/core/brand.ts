// Several copies of this package may be loaded in one process: two versions in one node_modules tree, or a copy for each
// realm. Their classes have private fields, so an object of one copy is of no use to another.
import { fileURLToPath } from 'node:url'

interface Brand {
  readonly name: string
  readonly location: string
}

const key = Symbol.for('async-accept.class')
const ours = new WeakSet<Brand>()
const location = fileURLToPath(new URL('..', import.meta.url))

/** Marks the instances of a class as those of this copy. */
export function brand(Class: { prototype: object }, name: string): void {
  const value: Brand = Object.freeze({ name, location })
  ours.add(value)
  Object.defineProperty(Class.prototype, key, { value })
}

/** Says what an object of another copy of this package is, for an error message; undefined for everything else. */
export function fromAnotherCopy(value: unknown): string | undefined {
  try {
    const found = (value as { [key]?: Brand })[key]
    if (found === undefined || ours.has(found)) return undefined
    return `a ${found.name} of another copy of async-accept, loaded from ${found.location}`
  } catch {
    return undefined // a Proxy, for instance, that throws
  }
}
