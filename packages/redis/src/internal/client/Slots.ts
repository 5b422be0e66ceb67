/**
 * Computes the slot of a key in a Redis Cluster: one of 16,384, by the hash of the key or of the text in its first braces.
 *
 * Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
 */

/** The number of slots of a cluster. */
export const count = 16_384

/** The table of CRC-16/XMODEM: polynomial 0x1021, initial value 0. */
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

/** The part of a key that Redis hashes: the text in its first braces unless that is empty, or the whole key. */
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
 * The hash tag that, in braces, puts a key into the slot of `key`: the hashed part of `key`. If that part is empty or holds a
 * closing brace, as in `a}b`, it cannot stand in braces; then a number with the same slot replaces it.
 */
export const tagOf = (key: string): string => {
  const part = hashed(key)
  if (!part.includes("}") && part !== "") return part
  const known = tags.get(part)
  if (known !== undefined) return known
  const slot = hash(part)
  let number = 0
  // one in 16,384 numbers has the slot
  while (hash(String(number)) !== slot) number++
  // evicted tags are computed again
  if (tags.size >= mostTags) tags.clear()
  tags.set(part, String(number))
  return String(number)
}
