//! "Did you mean": the nearest of the words that are known.

/// Longer words are compared by their beginnings only, so that a hostile name costs nothing.
const COMPARED_MAX: usize = 40;

/// Returns the candidate that a word most likely means, if one is near enough.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let letters: Vec<char> = word.to_lowercase().chars().take(COMPARED_MAX).collect();
    let allowed = (letters.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .filter_map(|candidate| {
            let other: Vec<char> = candidate.to_lowercase().chars().take(COMPARED_MAX).collect();
            if letters.len().abs_diff(other.len()) > allowed {
                return None;
            }
            let distance = distance(&letters, &other);
            (distance <= allowed).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Counts the letters that were left out, added, mistaken or swapped with their neighbour.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, letter) in left.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let mistaken = above[column] + usize::from(letter != other);
            let mut best = mistaken.min(above[column + 1] + 1).min(line[column] + 1);
            if row > 0 && column > 0 && *letter == right[column - 1] && left[row - 1] == *other {
                best = best.min(before[column - 1] + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut above, line);
    }
    above.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_another_word_is_not() {
        let known = ["name", "targetName", "targetPowerState", "id"];
        assert_eq!(nearest("nmae", known), Some("name"));
        assert_eq!(nearest("targetname", known), Some("targetName"));
        assert_eq!(nearest("targetPowerstat", known), Some("targetPowerState"));
        assert_eq!(nearest("name", known), None);
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"é".repeat(100_000), known), None);
    }
}
