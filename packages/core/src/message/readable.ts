/** Reads a getter of a driver or a user, or returns the default if the getter throws. */
export const readable = <A>(read: () => A, otherwise: A): A => {
  try {
    return read()
  } catch {
    return otherwise
  }
}
