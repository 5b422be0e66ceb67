/**
 * Ids of what came without one.
 */
import { type Fiber, Random } from "effect"

/** 32 hexadecimal digits of the fiber's chance. */
export const random = (fiber: Fiber.Fiber<unknown, unknown>): string => {
  const chance = fiber.getRef(Random.Random)
  let id = ""
  while (id.length < 32) id += Math.floor(chance.nextDoubleUnsafe() * 0x1_0000).toString(16).padStart(4, "0")
  return id
}
