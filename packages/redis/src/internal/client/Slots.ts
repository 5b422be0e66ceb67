/**
 * Where a Redis Cluster keeps a key: one of 16,384 slots, by the hash of the key or of the text in its first braces.
 *
 * Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
 */

/** How many slots a cluster has. */
export const count = 16_384

/** CRC-16 of XMODEM: polynomial 0x1021, beginning with 0. */
const table = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1
  return crc & 0xffff
})

const hash = (text: string): number => {
  const bytes = Buffer.from(text)
  let crc = 0
  for (let i = 0; i < bytes.length; i++) crc = (crc << 8 ^ table[crc >> 8 ^ bytes[i]!]!) & 0xffff
  return crc % count
}

/** The part of a key that is hashed: the text in its first braces unless that is empty, or the whole key. */
const hashed = (key: string): string => {
  const open = key.indexOf("{")
  const close = open < 0 ? -1 : key.indexOf("}", open + 1)
  return close > open + 1 ? key.slice(open + 1, close) : key
}

/** The slot of a key. */
export const slotOf = (key: string): number => hash(hashed(key))

const tags = new Map<string, string>()
const mostTags = 1024

/**
 * A text that, in braces, puts a key into the slot of `key`: the part of it that is hashed. That part cannot stand in braces
 * where it begins with one that is not closed or holds a closing one, as in `a}b`; then a number with the same slot takes its place.
 */
export const tagOf = (key: string): string => {
  const part = hashed(key)
  if (!part.includes("}") && part !== "") return part
  const known = tags.get(part)
  if (known !== undefined) return known
  const slot = hash(part)
  let number = 0
  // one in 16,384 numbers has it
  while (hash(String(number)) !== slot) number++
  // forgotten ones are found again
  if (tags.size >= mostTags) tags.clear()
  tags.set(part, String(number))
  return String(number)
}
