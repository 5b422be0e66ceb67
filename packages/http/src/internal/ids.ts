/**
 * Random ids for requests and messages without an id.
 */
import { type Fiber, Random } from "effect"

/** Makes 32 hexadecimal digits from the fiber's random generator. */
export const random = (fiber: Fiber.Fiber<unknown, unknown>): string => {
  const chance = fiber.getRef(Random.Random)
  let id = ""
  while (id.length < 32) id += Math.floor(chance.nextDoubleUnsafe() * 0x1_0000).toString(16).padStart(4, "0")
  return id
}
