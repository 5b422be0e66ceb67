/**
 * Random bytes of the operating system, in portions: asking for 12 bytes costs as much as asking for 4 KiB.
 */
import { randomFillSync } from "node:crypto"

const portion = Buffer.alloc(4096)
let used = portion.length

/** Copies `length` random bytes, at most 4,096, that no other call gets. */
export const randomBytes = (length: number): Buffer => {
  if (used + length > portion.length) {
    randomFillSync(portion)
    used = 0
  }
  const bytes = Buffer.from(portion.subarray(used, used + length))
  used += length
  return bytes
}
