"""Operations: cluster checks, spot notices, job submission."""
