import type * as jose from "jose"

const primes = [
  11,
  13,
  17,
  19,
  37,
  53,
  61,
  71,
  73,
  79,
  97,
  103,
  107,
  109,
  127,
  151,
  157
].map((prime) => {
  // the powers of 65537 modulo the prime
  const powers = new Set<bigint>()
  for (let power = 1n; !powers.has(power); power = power * 65537n % BigInt(prime)) powers.add(power)
  return { prime: BigInt(prime), powers }
})

const integerOf = (text: string): bigint => BigInt(`0x0${Buffer.from(text, "base64url").toString("hex")}`)

/**
 * Whether a public RSA key gives no protection although a runtime accepts it: an exponent that is below 3 (with 1, every text
 * is its own signature) or even, or a modulus of the form of CVE-2017-15361 (ROCA), which can be factored. One good modulus in
 * 100 million has that form by chance.
 */
export const isWeak = ({ e, kty, n }: jose.JWK): boolean => {
  if (kty !== "RSA" || typeof n !== "string" || typeof e !== "string") return false
  const exponent = integerOf(e)
  if (exponent < 3n || exponent % 2n === 0n) return true
  const modulus = integerOf(n)
  return primes.every(({ powers, prime }) => powers.has(modulus % prime))
}
